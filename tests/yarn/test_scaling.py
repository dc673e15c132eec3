"""Managed scaling: a cluster grows while its executors wait for nodes, and shrinks to its minimum again."""

from rehearsal.aws import REGION
from rehearsal.environment import RehearsalEnvironment, start_cluster
from resources.emr.sizing import spark_submit_conf
from tests.support import wait_for
from tests.yarn.test_environment import SLEEP, add_step

LEAST, MOST = 2, 3  # nodes


def test_a_job_with_many_tasks_gets_a_further_node_until_its_end(rehearsal: RehearsalEnvironment) -> None:
    # "Amazon EMR manages the automatic scaling activity by continuously evaluating cluster metrics", with a
    # frequency of "every 5 to 10 seconds":
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-scale-on-demand.html
    limits = {"UnitType": "Instances", "MinimumCapacityUnits": LEAST, "MaximumCapacityUnits": MOST}
    policy = {"ComputeLimits": limits}
    cluster = start_cluster(rehearsal.aws, rehearsal.bucket, nodes=LEAST, ManagedScalingPolicy=policy)
    emr = rehearsal.aws.client("emr")

    def core_nodes() -> int:
        groups = emr.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
        [core] = [group for group in groups if group["InstanceGroupType"] == "CORE"]
        return core["RunningInstanceCount"]

    def running_nodes() -> int:
        return list(rehearsal.yarn.nodes().values()).count("RUNNING")

    def busy_nodes() -> int:
        """The number of nodes on which containers of the cluster have run."""
        logs = [
            log
            for application in rehearsal.yarn.applications(cluster)
            for log in rehearsal.yarn.container_logs(application["id"])
        ]
        return len({log.relative_to(rehearsal.yarn.folder).parts[0] for log in logs})

    before = running_nodes()
    conf = spark_submit_conf("m5.xlarge", LEAST, REGION, MOST)
    options = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    # More tasks than two nodes run, each of ten minutes.
    step = add_step(rehearsal, SLEEP, "60", "600", cluster=cluster, options=options)
    wait_for(lambda: core_nodes() == MOST, 90)
    wait_for(lambda: busy_nodes() == MOST, 90)
    assert running_nodes() == before + MOST - LEAST
    emr.cancel_steps(ClusterId=cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS")
    wait_for(lambda: core_nodes() == LEAST, 60)
    assert running_nodes() == before
    emr.terminate_job_flows(JobFlowIds=[cluster])
