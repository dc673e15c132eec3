"""Starts Hadoop's daemons on this machine, as processes on loopback."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from rehearsal.jars import HDFS, YARN
from rehearsal.processes import start_process
from resources.local.jars import jars
from resources.local.java import java_home

_LOG4J = """log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
"""


def write_sites(conf: Path, sites: Mapping[str, Mapping[str, object]]) -> None:
    """Writes the configuration of daemons and clients to a new folder: the properties of each file."""
    conf.mkdir(parents=True)
    (conf / "log4j.properties").write_text(_LOG4J)
    for name, properties in sites.items():
        lines = (
            f"<property><name>{key}</name><value>{escape(str(value))}</value></property>"
            for key, value in properties.items()
        )
        (conf / f"{name}.xml").write_text("\n".join(["<configuration>", *lines, "</configuration>\n"]))


def start_daemon(folder: Path, name: str, main: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts a daemon with the configuration in `folder/conf`.

    Its files are in the new folder `folder/name`, which is the mark of its process too. Its log is
    `folder/name.log`. In a configuration, `${fruits.node}` is `folder/name`.
    """
    java = [
        str(java_home() / "bin" / "java"),
        # The daemon runs for minutes, too short for the slower compiler to pay off.
        *("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
        "-Djava.net.preferIPv4Stack=true",
        # Guice, which builds YARN's web services, defines classes through java.lang. Java 17 closes it.
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        f"-Dfruits.node={folder / name}",
        f"-Djava.io.tmpdir={folder / name}",
    ]
    class_path = ":".join(map(str, (folder / "conf", *jars(YARN), *jars(HDFS))))
    (folder / name).mkdir(parents=True)
    environment = {"JAVA_HOME": str(java_home()), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    command = [*java, "-cp", class_path, main, *arguments]
    return start_process(str(folder / name), command, folder / f"{name}.log", environment)
