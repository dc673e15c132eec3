"""EMR's managed scaling: nodes of YARN come and go with the containers for which applications wait."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from rehearsal.emr import ENDED, LOCK, RehearsedCluster, for_each_cluster
from rehearsal.yarn import Yarn

# EMR looks "every 5 to 10 seconds":
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-scale-on-demand.html
EVALUATION_SECONDS = 5.0


@dataclass(kw_only=True)
class Scaler:
    """Scales the clusters with a managed scaling policy, within the limits of their policies.

    While applications of a cluster wait for containers at two successive looks, it gets a node for each
    container that no idle node of its own can take, as EMR does by its metrics of pending containers:
    https://aws.github.io/aws-emr-best-practices/docs/bestpractices/Features/Managed%20Scaling/best_practices/.
    It loses a node that is idle at two successive looks while none of its containers is pending.

    Limits: policies count instances, and all nodes are core nodes, without task nodes. A container takes a
    whole node. The nodes of a cluster are counted as running from the start of their process. A node that was
    added has no DataNode, and ListInstances does not show it. All clusters share the nodes of YARN, so the
    nodes with which YARN started stay, and a container of another cluster may run on an added node.
    """

    yarn: Yarn
    # The numbers of the nodes that each cluster has got, and of those that were idle at the last look. The
    # clusters whose containers were pending at the last look.
    _added: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _idle: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _pending: set[str] = field(default_factory=set)

    def run_forever(self) -> None:
        """Evaluates all clusters in an endless loop; runs in a separate thread."""
        while True:
            for_each_cluster(self._evaluate)
            time.sleep(EVALUATION_SECONDS)

    def _evaluate(self, cluster: RehearsedCluster) -> None:
        added = self._added[cluster.id]
        limits = (cluster.managed_scaling or {}).get("ComputeLimits")
        if limits is None or cluster.state in ENDED:
            self._remove(cluster, added)
            return
        pending = self.yarn.pending_containers(cluster.id)
        idle = {number for number in added if self.yarn.is_idle(number)}
        if pending:
            if cluster.id in self._pending:
                room = int(limits["MaximumCapacityUnits"]) - cluster.core_nodes
                self._add(cluster, min(pending - len(idle), room))
        else:
            self._remove(cluster, idle & self._idle[cluster.id])
        self._idle[cluster.id] = set() if pending else idle
        (self._pending.add if pending else self._pending.discard)(cluster.id)

    def _add(self, cluster: RehearsedCluster, nodes: int) -> None:
        for _ in range(nodes):
            self._added[cluster.id].add(self.yarn.start_node())
            with LOCK:
                cluster.core_nodes += 1

    def _remove(self, cluster: RehearsedCluster, numbers: set[int]) -> None:
        for number in list(numbers):
            self.yarn.stop_node(number)
            self._added[cluster.id].discard(number)
            with LOCK:
                cluster.core_nodes -= 1
