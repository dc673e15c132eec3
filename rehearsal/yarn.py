"""Runs YARN on this machine: a ResourceManager and NodeManagers as separate processes, on loopback.

A node is a NodeManager with a DataNode of HDFS.
"""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.daemons import start_daemon, write_sites
from rehearsal.hdfs import Hdfs
from rehearsal.processes import kill_marked, killed_at_exit, marked_processes, reserved_ports, tail
from spark_jobs.errors import FruitsError

# A node without a heartbeat for this time is lost: long enough for a busy machine, short enough for a test.
NODE_EXPIRY_SECONDS = 15

START_SECONDS = 180  # the time limit of the start

_SERVER = "org.apache.hadoop.yarn.server"
_NODE_MANAGER = f"{_SERVER}.nodemanager.NodeManager"


@dataclass(frozen=True)
class Yarn:
    """A running YARN. A client that submits applications sets `HADOOP_CONF_DIR` to `conf_dir`.

    `processes` has the daemons that this process started, by name.
    """

    folder: Path
    url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

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

    def applications(self, user: str = "") -> list[dict[str, Any]]:
        """The ResourceManager's record (`id`, `state`, `finalStatus`, ...) of every application of a user."""
        query = f"?user={user}" if user else ""
        listed: list[dict[str, Any]] = (self._get(f"apps{query}")["apps"] or {"app": []})["app"]
        return listed

    def application(self, identity: str) -> dict[str, Any]:
        """The ResourceManager's record of one application."""
        record: dict[str, Any] = self._get(f"apps/{identity}")["app"]
        return record

    def pending_containers(self, user: str) -> int:
        """The number of containers that the applications of a user ask for and do not have."""
        return sum(
            request["numContainers"]
            for application in self.applications(user)
            for request in application.get("resourceRequests", [])
            if request["resourceName"] == "*"
        )

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

    def is_idle(self, number: int) -> bool:
        """Whether no container runs on a node that `start_node` started."""
        return len(marked_processes(self._node(number))) == 1  # its NodeManager

    def start_node(self) -> int:
        """Starts a further node, which has no DataNode; returns its number."""
        numbers = (int(node.name.removeprefix("node")) for node in self.folder.glob("node*[0-9]"))
        name = f"node{(number := max(numbers) + 1)}"
        self.processes[name] = start_daemon(self.folder, name, _NODE_MANAGER)
        return number

    def stop_node(self, number: int) -> None:
        """Stops a node that this process started. It leaves YARN at once, and is not LOST."""
        node = self.processes.pop(f"node{number}")
        node.terminate()
        node.wait()

    def kill_node(self, number: int) -> None:
        """Kills a node with its containers and its blocks of HDFS, as the loss of a host does."""
        kill_marked(self._node(number))

    def _node(self, number: int) -> str:
        """The mark of the processes of a node."""
        return f"{self.folder}/node{number}"

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/ws/v1/cluster/{path}", timeout=10) as response:
            content: dict[str, Any] = json.load(response)
            return content


@contextmanager
def start_yarn(folder: Path, nodes: int = 2, memory_mb: int = 4096, vcores: int = 4) -> Iterator[Yarn]:
    """Runs YARN and HDFS with a number of nodes while the context lasts; yields when all nodes are RUNNING.

    `folder` receives configuration, logs and the containers' working directories of this YARN alone.
    `memory_mb` and `vcores` are the resources of each node. As on EMR, YARN allocates containers by memory.

    Raises `FruitsError` if a jar has changed, or if a daemon does not start. The message ends with the
    daemon's log.
    """
    folder = folder.absolute()
    names = [f"node{number}" for number in range(nodes)]
    with reserved_ports(7) as [web, rpc, hdfs_web, *others], killed_at_exit(str(folder)):
        hdfs, yarn = Hdfs(folder, rpc, hdfs_web), Yarn(folder, f"http://127.0.0.1:{web}")
        write_sites(
            yarn.conf_dir,
            {
                # As on EMR, paths without a scheme, and Spark's staging folders, are on HDFS.
                "core-site": {"fs.defaultFS": hdfs.url, "hadoop.tmp.dir": f"{folder}/tmp"},
                "hdfs-site": hdfs.site(),
                "yarn-site": _yarn_site(web, others, memory_mb, vcores),
                "capacity-scheduler": _SCHEDULER,
            },
        )
        manager = f"{_SERVER}.resourcemanager.ResourceManager"
        for name, main in {"resourcemanager": manager, **dict.fromkeys(names, _NODE_MANAGER)}.items():
            yarn.processes[name] = start_daemon(folder, name, main)
        yarn.processes.update(hdfs.start(names))
        _wait_until_up(yarn, hdfs, nodes)
        yield yarn
        kill_marked(str(folder))
        for process in yarn.processes.values():
            process.wait()


def _yarn_site(web: int, ports: list[int], memory_mb: int, vcores: int) -> dict[str, object]:
    """The properties of yarn-site. `web` is the port of the web services; `ports` are four RPC ports."""
    rm, nm = "yarn.resourcemanager", "yarn.nodemanager"
    addresses = ("address", "scheduler.address", "resource-tracker.address", "admin.address")
    return {
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
        # EMR's value for every instance type:
        # https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hadoop-task-config.html
        "yarn.scheduler.minimum-allocation-mb": 32,
        "yarn.scheduler.maximum-allocation-mb": memory_mb,
        "yarn.scheduler.maximum-allocation-vcores": vcores,
        # As on EMR, YARN checks physical memory but not virtual memory.
        f"{nm}.vmem-check-enabled": "false",
        f"{nm}.disk-health-checker.max-disk-utilization-per-disk-percentage": 99.9,
        f"{nm}.env-whitelist": "JAVA_HOME,PATH,FRUITS_REHEARSAL",
    }


_SCHEDULER = {
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": 100,
    "yarn.scheduler.capacity.maximum-am-resource-percent": 0.5,
}


def _wait_until_up(yarn: Yarn, hdfs: Hdfs, nodes: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for name, daemon in yarn.processes.items():
            if daemon.poll() is not None:
                log = yarn.folder / f"{name}.log"
                raise FruitsError(
                    f"Hadoop's {name} ended with status {daemon.returncode}. Its log ends with\n{tail(log)}"
                )
        try:
            if list(yarn.nodes().values()) == ["RUNNING"] * nodes and hdfs.live_data_nodes() == nodes:
                return
        except OSError:  # not listening yet
            pass
        time.sleep(0.2)
    logs = "\n".join(f"{name}:\n{tail(yarn.folder / f'{name}.log')}" for name in yarn.processes)
    raise FruitsError(f"YARN's nodes did not start within {START_SECONDS} s. Its logs end with\n{logs}")
