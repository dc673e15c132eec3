"""What a node of the stand-in cluster has: a Python with what executors need, and Spark's defaults."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rehearsal.jars import SPARK_HOME, cache_lock, jars
from resources.local.java import java_home
from spark_jobs.errors import FruitsError

# Java processes live for a minute here: they compile little, and end sooner for it. Spark puts these before
# the options that a step gives.
_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

_REPOSITORY = Path(__file__).parents[1]
_LOCK = _REPOSITORY / "requirements.lock"
# PySpark and py4j come with Spark. No Dagster but its Pipes, and no TensorFlow: who imports them fails.
_PACKAGES = _REPOSITORY / "emr_bootstrap" / "requirements.in"


def node_python() -> Path:
    """The Python of an environment with a node's packages at the locked versions, made once and cached.

    The project's lock says the versions and not the nodes' own, which is for Python 3.11 alone: here, driver
    and nodes have this process's Python.

    Raises `FruitsError` when uv can't make it.
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
            f"the nodes' Python environment could not be made: `uv {' '.join(arguments)}` says\n"
            f"{done.stderr[-1500:]}"
        )


def write_spark_conf(folder: Path, aws: Mapping[str, str]) -> None:
    """Writes the `spark-defaults.conf` of the stand-in to `folder`, which `SPARK_CONF_DIR` is to name.

    It does for `s3://` what EMR's own does: steps use it with no settings of theirs. `aws` are the variables
    by which a node reaches AWS, in the place of an instance's profile.
    """
    defaults = {
        "spark.master": "yarn",
        # As on EMR, the jars are on every node; else each step would upload 300 MB, each container copy it.
        "spark.yarn.jars": f"local:{SPARK_HOME}/jars/*",
        "spark.yarn.stagingDir": f"file://{folder.parent}/staging",
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
    spark_conf: Path, hadoop_conf: Path, python: Path, aws: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of a step's process, which has nothing of this process's own."""
    return {
        "PATH": f"{SPARK_HOME}/bin:{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(spark_conf.parent),
        "LANG": "C.UTF-8",
        "JAVA_HOME": str(java_home()),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_CONF_DIR": str(spark_conf),
        "HADOOP_CONF_DIR": str(hadoop_conf),
        "PYSPARK_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LAUNCHER_OPTS": _JAVA_OPTIONS,
        # Spark hands it on to YARN's containers.
        "SPARK_DIST_CLASSPATH": ":".join(map(str, jars("s3a"))),
        **aws,
    }
