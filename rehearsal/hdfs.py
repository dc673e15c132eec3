"""HDFS on this machine: a NameNode and DataNodes. As on EMR, it has the files of running applications.

EMR puts a DataNode on each core node. So a lost core node takes its copies of blocks with it, and files with
a single copy are incomplete then: https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html
"""

import json
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rehearsal.daemons import start_daemon
from rehearsal.processes import tail
from spark_jobs.errors import FruitsError

_SERVER = "org.apache.hadoop.hdfs.server"


@dataclass(frozen=True)
class Hdfs:
    """The ports of an HDFS whose daemons have their files in `folder`."""

    folder: Path
    rpc_port: int
    web_port: int

    @property
    def url(self) -> str:
        return f"hdfs://127.0.0.1:{self.rpc_port}"

    def site(self) -> dict[str, object]:
        """The properties of `hdfs-site.xml`."""
        data = "dfs.datanode"
        return {
            "dfs.namenode.http-address": f"127.0.0.1:{self.web_port}",
            "dfs.namenode.name.dir": f"file://{self.folder}/name",
            f"{data}.data.dir": "file://${fruits.node}/data",
            f"{data}.hostname": "127.0.0.1",
            **{f"{data}.{kind}address": "127.0.0.1:0" for kind in ("", "http.", "ipc.")},
            "dfs.permissions.enabled": "false",
            # A reader that finds no copy of a block tries three times more, at first after this time, in ms.
            # The default of 3,000 makes an application wait for a quarter of a minute for each file.
            "dfs.client.retry.window.base": 300,
        }

    def start(self, nodes: Sequence[str]) -> dict[str, subprocess.Popen[bytes]]:
        """Formats the file system, and starts a NameNode, and a DataNode on each of the nodes.

        A DataNode ends with the other processes of its node. Raises `FruitsError` if the file system can not
        be formatted, which takes about three seconds.
        """
        # The daemons look for the folders of their web pages, which no jar has.
        for pages in ("hdfs", "datanode"):
            (self.folder / "conf" / "webapps" / pages).mkdir(parents=True)
        name_node = f"{_SERVER}.namenode.NameNode"
        if start_daemon(self.folder, "format", name_node, "-format", "-nonInteractive").wait():
            raise FruitsError(
                f"HDFS could not be formatted. The log ends with\n{tail(self.folder / 'format.log')}"
            )
        daemons = {"namenode": name_node}
        daemons |= {f"{node}/datanode": f"{_SERVER}.datanode.DataNode" for node in nodes}
        return {name: start_daemon(self.folder, name, main) for name, main in daemons.items()}

    def live_data_nodes(self) -> int:
        """The number of DataNodes that the NameNode knows. Raises `OSError` before it listens."""
        query = "Hadoop:service=NameNode,name=FSNamesystemState"
        address = f"http://127.0.0.1:{self.web_port}/jmx?qry={query}"
        with urllib.request.urlopen(address, timeout=10) as response:
            beans = json.load(response)["beans"]
        return int(beans[0]["NumLiveDataNodes"]) if beans else 0
