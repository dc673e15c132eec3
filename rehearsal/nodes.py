"""The nodes of the simulated cluster: their Python environment and their Spark configuration."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from resources.local.jars import S3A, SPARK_HOME, cache_lock, jars
from resources.local.java import java_home
from spark_jobs.errors import FruitsError

# The Java processes run for about a minute, and end sooner without the slower compiler. Spark puts these
# options before the options of a step.
_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

_REPOSITORY = Path(__file__).parents[1]
_LOCK = _REPOSITORY / "requirements.lock"
# PySpark and py4j come with Spark. Of Dagster, only Pipes is there, and TensorFlow is not: as on EMR, a job
# that imports them fails.
_PACKAGES = _REPOSITORY / "emr_bootstrap" / "requirements.in"


def node_python() -> Path:
    """The Python of an environment with the packages of a node. The environment is created once and cached.

    The versions come from the project's lock. The lock of EMR's nodes is for Python 3.11 only, but here the
    driver and the nodes run with the Python version of this process.

    Raises `FruitsError` if uv can't create the environment.
    """
    wanted = sys.version.encode() + _PACKAGES.read_bytes() + _LOCK.read_bytes()
    with cache_lock() as cache:
        folder = cache / f"node-{hashlib.sha256(wanted).hexdigest()[:16]}"
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(folder))
            _uv(
                "pip",
                "install",
                "--python",
                str(python),
                "--constraint",
                str(_LOCK),
                "--requirement",
                str(_PACKAGES),
            )
            (folder / "complete").touch()
    return python


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([str(uv), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise FruitsError(
            f"the nodes' Python environment could not be created: `uv {' '.join(arguments)}` failed with\n"
            f"{done.stderr[-1500:]}"
        )


def write_spark_conf(folder: Path, aws: Mapping[str, str], hdfs_copies: int) -> None:
    """Writes `spark-defaults.conf` to `folder`, the `SPARK_CONF_DIR` of a step.

    As on EMR, steps read and write `s3://` without settings of their own. `aws` has the environment variables
    that lead a node to AWS; they replace the instance profile of EMR. HDFS keeps `hdfs_copies` of the step's
    files, which are in Spark's staging folder.
    """
    defaults = {
        "spark.master": "yarn",
        # As on EMR, the jars are on every node. Otherwise each step would upload 300 MB of jars.
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.hadoop.dfs.replication": str(hdfs_copies),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.endpoint": aws["AWS_ENDPOINT_URL"],
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "com.amazonaws.auth.EnvironmentVariableCredentialsProvider"
        ),
        "spark.driver.defaultJavaOptions": _JAVA_OPTIONS,
        "spark.executor.defaultJavaOptions": _JAVA_OPTIONS,
        "spark.yarn.am.extraJavaOptions": _JAVA_OPTIONS,
    }
    for name, value in {**aws, "SPARK_LOCAL_IP": "127.0.0.1"}.items():
        defaults[f"spark.executorEnv.{name}"] = value
        defaults[f"spark.yarn.appMasterEnv.{name}"] = value
    folder.mkdir(parents=True)
    (folder / "spark-defaults.conf").write_text("".join(f"{k} {v}\n" for k, v in defaults.items()))


def step_environment(
    spark_conf: Path, hadoop_conf: Path | None, python: Path, aws: Mapping[str, str]
) -> dict[str, str]:
    """All environment variables of a step's process. The step inherits none of this process.

    Without `hadoop_conf`, the step can not use Spark.
    """
    environment = {
        "PATH": f"{SPARK_HOME}/bin:{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(spark_conf.parent),
        "LANG": "C.UTF-8",
        "JAVA_HOME": str(java_home()),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_CONF_DIR": str(spark_conf),
        "PYSPARK_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LAUNCHER_OPTS": _JAVA_OPTIONS,
        **aws,
    }
    if hadoop_conf is None:
        return environment
    # Spark passes the class path on to the containers of YARN.
    return environment | {
        "HADOOP_CONF_DIR": str(hadoop_conf),
        "SPARK_DIST_CLASSPATH": ":".join(map(str, jars(S3A))),
    }
