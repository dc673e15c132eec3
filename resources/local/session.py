"""What Spark is told on one machine."""

import os
import sys
from pathlib import Path
from typing import Any

from resources.local.java import java_home, trust_options
from resources.settings import Settings
from spark_jobs.store.root import s3_endpoint

# The S3A that Spark 3.5's own Hadoop is built with; resolved by Spark, from Maven Central or its mirror.
HADOOP_AWS = "org.apache.hadoop:hadoop-aws:3.3.4"

# The work is done in Python: a JVM that compiles little starts and ends sooner.
QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

_LOG4J = Path(__file__).with_name("log4j2.properties")


def set_environment() -> None:
    """Sets the variables that Spark in this process takes its Java, its address and its Python from."""
    os.environ["JAVA_HOME"] = str(java_home())
    # Without it Spark looks for another address, and warns of what it finds.
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    # Executors must run this very interpreter, whatever `python3` is on the PATH.
    os.environ["PYSPARK_PYTHON"] = sys.executable


def local_spark_config(settings: Settings) -> dict[str, Any]:
    """Spark's configuration for one machine."""
    config = {
        # A task that fails is tried once more: a hiccup of S3 is no reason to lose the run. The JVM knows how
        # many cores it may use, by affinity and by the limits of a container.
        "spark.master": f"local[{settings.spark_cores or '*'},2]",
        "spark.app.name": "fruits",
        "spark.driver.memory": settings.spark_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": " ".join(
            [f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}", QUICK_JVM, trust_options()]
        ),
        # Partial results come back as they are: 13 MB for each task of the PCA.
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
        "spark.python.worker.reuse": "true",
    }
    if settings.images.startswith("s3://") or settings.store.startswith("s3://"):
        config |= s3_config()
    return config


def s3_config() -> dict[str, str]:
    """What makes `s3://` mean on one machine what it means on EMR: S3A under EMR's scheme."""
    config = {
        "spark.jars.packages": HADOOP_AWS,
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "com.amazonaws.auth.DefaultAWSCredentialsProviderChain"
        ),
    }
    endpoint = s3_endpoint()
    if endpoint:
        config |= {
            "spark.hadoop.fs.s3a.endpoint": endpoint,
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https")).lower(),
        }
    return config
