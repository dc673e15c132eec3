"""Runs YARN on this machine: a ResourceManager and NodeManagers as separate processes, on loopback."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rehearsal.jars import jars
from rehearsal.processes import kill_marked, killed_at_exit, reserved_ports, start_process, tail
from resources.local.java import java_home
from spark_jobs.errors import FruitsError

# A node without a heartbeat for this time is lost: long enough for a busy machine, short enough for a test.
NODE_EXPIRY_SECONDS = 15

START_SECONDS = 180  # the time limit of the start

_SERVER = "org.apache.hadoop.yarn.server"
_LOG4J = """log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
"""


@dataclass(frozen=True)
class Yarn:
    """A running YARN. A client that submits applications sets `HADOOP_CONF_DIR` to `conf_dir`."""

    folder: Path
    url: str
    node_managers: tuple[subprocess.Popen[bytes], ...]

    @property
    def conf_dir(self) -> Path:
        return self.folder / "conf"

    def container_logs(self, application: str) -> list[Path]:
        """The log files (`stdout`, `stderr`, ...) of an application's containers, on all nodes."""
        return sorted(self.folder.glob(f"node*/logs/{application}/*/*"))

    def nodes(self) -> dict[str, str]:
        """The state (RUNNING, LOST, ...) of every node by its id."""
        listed = self._get("nodes")["nodes"] or {"node": []}
        return {node["id"]: node["state"] for node in listed["node"]}

    def applications(self) -> list[dict[str, Any]]:
        """The ResourceManager's record (`id`, `name`, `state`, `finalStatus`, ...) of every application."""
        listed: list[dict[str, Any]] = (self._get("apps")["apps"] or {"app": []})["app"]
        return listed

    def application(self, identity: str) -> dict[str, Any]:
        """The ResourceManager's record of one application."""
        record: dict[str, Any] = self._get(f"apps/{identity}")["app"]
        return record

    def kill_application(self, identity: str) -> None:
        """Asks the ResourceManager to kill an application, as `yarn application -kill` does."""
        body = json.dumps({"state": "KILLED"}).encode()
        request = urllib.request.Request(
            f"{self.url}/ws/v1/cluster/apps/{identity}/state?user.name={self.application(identity)['user']}",
            data=body,
            headers={"Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def node_of_master(self, identity: str) -> int:
        """The number of the node on which an application's master runs. Its loss costs an attempt."""
        attempts = self._get(f"apps/{identity}/appattempts")["appAttempts"]["appAttempt"]
        container = attempts[-1]["containerId"]
        [log_folder] = self.folder.glob(f"node*/logs/{identity}/{container}")
        return int(log_folder.relative_to(self.folder).parts[0].removeprefix("node"))

    def kill_node_manager(self, number: int) -> None:
        """Kills a NodeManager and its containers at once, as the loss of a host does."""
        kill_marked(f"{self.folder}/node{number}")
        self.node_managers[number].wait()

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/ws/v1/cluster/{path}", timeout=10) as response:
            content: dict[str, Any] = json.load(response)
            return content


@contextmanager
def start_yarn(
    folder: Path, node_managers: int = 2, memory_mb: int = 4096, vcores: int = 4
) -> Iterator[Yarn]:
    """Runs a ResourceManager and NodeManagers while the context lasts; yields when all nodes are RUNNING.

    `folder` receives configuration, logs and the containers' working directories of this YARN alone.
    `memory_mb` and `vcores` are the resources of each node. As on EMR, YARN allocates containers by memory.

    Raises `FruitsError` if a jar has changed, or if a daemon does not start. The message ends with the
    daemon's log.
    """
    folder = folder.absolute()
    class_path = [folder / "conf", *jars("yarn")]
    with reserved_ports(5) as [web, *others], killed_at_exit(str(folder)):
        _configure(folder / "conf", web=web, ports=others, memory_mb=memory_mb, vcores=vcores)
        manager = _start(folder, "resourcemanager", "resourcemanager.ResourceManager", class_path)
        nodes = [
            _start(folder, f"node{number}", "nodemanager.NodeManager", class_path)
            for number in range(node_managers)
        ]
        yarn = Yarn(folder, f"http://127.0.0.1:{web}", tuple(nodes))
        _wait_until_up(yarn, {"resourcemanager": manager, **{f"node{i}": n for i, n in enumerate(nodes)}})
        yield yarn
        kill_marked(str(folder))
        for process in (manager, *nodes):
            process.wait()


def _configure(folder: Path, *, web: int, ports: list[int], memory_mb: int, vcores: int) -> None:
    """Writes the configuration. `web` is the port of the web services; `ports` are the four RPC ports."""
    rm, nm = "yarn.resourcemanager", "yarn.nodemanager"
    addresses = ("address", "scheduler.address", "resource-tracker.address", "admin.address")
    sites: dict[str, dict[str, object]] = {
        "core-site": {"fs.defaultFS": "file:///", "hadoop.tmp.dir": f"{folder.parent}/tmp"},
        "yarn-site": {
            f"{rm}.hostname": "127.0.0.1",
            f"{rm}.webapp.address": f"127.0.0.1:{web}",
            **{f"{rm}.{a}": f"127.0.0.1:{port}" for a, port in zip(addresses, ports, strict=True)},
            # Frequent heartbeats: a node receives its containers with the answer to a heartbeat.
            f"{rm}.nodemanagers.heartbeat-interval-ms": 250,
            "yarn.nm.liveness-monitor.expiry-interval-ms": NODE_EXPIRY_SECONDS * 1000,
            "yarn.am.liveness-monitor.expiry-interval-ms": NODE_EXPIRY_SECONDS * 1000,
            # Hadoop inserts the value of this system property, which differs for each daemon.
            f"{nm}.local-dirs": "${fruits.node}/local",
            f"{nm}.log-dirs": "${fruits.node}/logs",
            f"{nm}.hostname": "127.0.0.1",
            **{f"{nm}.{a}": "127.0.0.1:0" for a in ("address", "localizer.address", "webapp.address")},
            f"{nm}.resource.memory-mb": memory_mb,
            f"{nm}.resource.cpu-vcores": vcores,
            "yarn.scheduler.minimum-allocation-mb": 64,
            "yarn.scheduler.maximum-allocation-mb": memory_mb,
            "yarn.scheduler.maximum-allocation-vcores": vcores,
            # As on EMR, YARN checks physical memory but not virtual memory.
            f"{nm}.vmem-check-enabled": "false",
            f"{nm}.disk-health-checker.max-disk-utilization-per-disk-percentage": 99.9,
            f"{nm}.env-whitelist": "JAVA_HOME,PATH,FRUITS_REHEARSAL",
        },
        "capacity-scheduler": {
            "yarn.scheduler.capacity.root.queues": "default",
            "yarn.scheduler.capacity.root.default.capacity": 100,
            "yarn.scheduler.capacity.maximum-am-resource-percent": 0.5,
        },
    }
    folder.mkdir(parents=True)
    (folder / "log4j.properties").write_text(_LOG4J)
    for name, properties in sites.items():
        lines = (
            f"<property><name>{key}</name><value>{escape(str(value))}</value></property>"
            for key, value in properties.items()
        )
        (folder / f"{name}.xml").write_text("\n".join(["<configuration>", *lines, "</configuration>\n"]))


def _start(folder: Path, name: str, main: str, class_path: list[Path]) -> subprocess.Popen[bytes]:
    node = folder / name
    for below in ("local", "logs"):
        (node / below).mkdir(parents=True)
    java = [
        str(java_home() / "bin" / "java"),
        # The daemon runs for minutes, too short for the slower compiler to pay off.
        *("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
        "-Djava.net.preferIPv4Stack=true",
        # Guice, which builds the web services, defines classes through java.lang. Java 17 closes it.
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        f"-Dfruits.node={node}",
    ]
    environment = {"JAVA_HOME": str(java_home()), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    command = [*java, "-cp", ":".join(map(str, class_path)), f"{_SERVER}.{main}"]
    return start_process(str(node), command, folder / f"{name}.log", environment)


def _wait_until_up(yarn: Yarn, daemons: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for name, daemon in daemons.items():
            if daemon.poll() is not None:
                log = yarn.folder / f"{name}.log"
                raise FruitsError(
                    f"YARN's {name} ended with status {daemon.returncode}. Its log ends with\n{tail(log)}"
                )
        try:
            states = list(yarn.nodes().values())
        except OSError:  # not listening yet
            states = []
        if states == ["RUNNING"] * len(yarn.node_managers):
            return
        time.sleep(0.2)
    logs = "\n".join(f"{name}:\n{tail(yarn.folder / f'{name}.log')}" for name in daemons)
    raise FruitsError(f"YARN's nodes did not start within {START_SECONDS} s. Its logs end with\n{logs}")
