"""Clusters that are started for a run or a backfill, found by their tags, and terminated."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from resources.emr.account import NODE_PYTHON
from resources.emr.aws import aws_errors_named, client
from resources.emr.cluster import POLL_SECONDS
from resources.emr.sizing import yarn_site
from resources.emr.stack import CLUSTER_TAGS, PROJECT_TAG, Stack, stack_outputs
from resources.instance_types import common_architecture
from resources.prices import load_prices
from resources.runs import OWNER_TAG
from resources.settings import Settings
from resources.spark_events import EVENT_LOGS, ON_S3
from spark_jobs.errors import FruitsError
from spark_jobs.wording import visible

# The policies of RunJobFlow, and the calls that put each on a cluster that exists.
_POLICIES = {
    "AutoTerminationPolicy": "put_auto_termination_policy",
    "ManagedScalingPolicy": "put_managed_scaling_policy",
}
# AWS's permissions may know the tags of a new cluster only some seconds after its start.
_TAG_SECONDS = 60

ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]


def find_or_start_cluster(emr: Any, settings: Settings, owner: str) -> str:
    """The id of an owner's cluster. Starts a cluster, which is ready minutes later, where there is none.

    Where two runs start a cluster at the same time, both use the older one, and the newer is terminated.

    Raises `FruitsError` where the cluster may cost more than FRUITS_EMR_MAX_HOURLY_COST, or has no price.
    """
    found = owned_clusters(emr, owner)
    if found:
        return found[0]
    check_hourly_cost(settings)
    started = _start(emr, cluster_request(settings, stack_outputs(settings), owner))
    # EMR's list may not contain the new cluster yet.
    oldest = next(iter(owned_clusters(emr, owner)), started)
    if oldest != started:
        emr.terminate_job_flows(JobFlowIds=[started])
    return oldest


def _start(emr: Any, request: dict[str, Any]) -> str:
    """Starts a cluster; returns its id.

    The operator may put policies on clusters with the project's tag. AWS does not document whether a new
    cluster has its tags when EMR asks for the permission to put the policies of the request. Where AWS
    refuses them, the cluster starts without them, gets them when it has its tags, and ends if that fails.
    """
    from botocore.exceptions import ClientError

    try:
        return str(emr.run_job_flow(**request)["JobFlowId"])
    except ClientError as error:
        denied = error.response["Error"]["Code"] == "AccessDeniedException"
        if not denied or not any(f"Put{policy}" in str(error) for policy in _POLICIES):
            raise
    policies = {name: request[name] for name in _POLICIES if name in request}
    without = {name: value for name, value in request.items() if name not in policies}
    started = str(emr.run_job_flow(**without)["JobFlowId"])
    try:
        for policy, value in policies.items():
            _put(emr, started, policy, value)
    except BaseException:
        emr.terminate_job_flows(JobFlowIds=[started])
        raise
    return started


def _put(emr: Any, cluster: str, policy: str, value: Mapping[str, Any]) -> None:
    """Puts a policy on a new cluster. Raises the error of AWS where it is refused after a minute too."""
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + _TAG_SECONDS
    while True:
        try:
            getattr(emr, _POLICIES[policy])(ClusterId=cluster, **{policy: value})
            return
        except ClientError as error:
            refused = error.response["Error"]["Code"] == "AccessDeniedException"
            if not refused or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def terminate_clusters(emr: Any, owner: str) -> list[str]:
    """Terminates the clusters of an owner; returns their ids."""
    found = owned_clusters(emr, owner)
    if found:
        emr.terminate_job_flows(JobFlowIds=found)
    return found


def end_clusters(settings: Settings, owner: str, log: Callable[[str], None]) -> None:
    """Terminates the clusters of an owner and logs it. Where AWS refuses, logs when EMR will end them."""
    try:
        with aws_errors_named():
            ended = terminate_clusters(client("emr", settings.region), owner)
    except FruitsError as error:
        log(
            f"The cluster could not be terminated: {error} EMR terminates it after "
            f"{settings.emr_idle_minutes} idle minutes."
        )
        return
    if ended:
        log(f"Terminated the cluster {', '.join(ended)}")


@contextmanager
def clusters_ended_after(settings: Settings, owner: str) -> Iterator[None]:
    """At the end of the context, also after an error, terminates the clusters of an owner."""
    try:
        yield
    finally:
        end_clusters_of_process(settings, owner)


def end_clusters_of_process(settings: Settings, owner: str) -> None:
    """Terminates the clusters of a `fruits run` and reports it on stderr, where the run starts clusters."""
    if settings.makes_clusters:
        end_clusters(settings, owner, lambda message: print(visible(message), file=sys.stderr))


def owners(emr: Any) -> set[str]:
    """The owners of this project's clusters that are alive."""
    return {owner for _, owner in _alive(emr)}


def owned_clusters(emr: Any, owner: str) -> list[str]:
    """The ids of an owner's clusters that are alive, the oldest first."""
    return [cluster for cluster, owner_tag in _alive(emr) if owner_tag == owner]


def _alive(emr: Any) -> list[tuple[str, str]]:
    """The ids and owners of this project's clusters that are alive, the oldest first."""
    from botocore.exceptions import ClientError

    pages = emr.get_paginator("list_clusters").paginate(ClusterStates=ALIVE)
    listed = [entry for page in pages for entry in page["Clusters"] if entry["Name"].startswith(_name(""))]
    listed.sort(key=lambda entry: (entry["Status"]["Timeline"]["CreationDateTime"], entry["Id"]))
    found = []
    for cluster_id in (entry["Id"] for entry in listed):
        try:
            cluster = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
        except ClientError as error:
            # The operator's policy does not allow to describe a cluster without the project's tag.
            if error.response["Error"]["Code"] == "AccessDeniedException":
                continue
            raise
        tags = {tag["Key"]: tag["Value"] for tag in cluster.get("Tags", [])}
        # Tags can change later, and the name cannot: nobody gives a cluster to another owner.
        owner = tags.get(OWNER_TAG, "")
        if PROJECT_TAG.items() <= tags.items() and cluster["Name"] == _name(owner):
            found.append((cluster_id, owner))
    return found


def hourly_cost(settings: Settings) -> float:
    """The on-demand price of a cluster with all nodes that the settings allow, without disks, in USD an hour.

    Raises `FruitsError` where an instance type has no price.
    """
    return load_prices(settings.prices).cluster_hour(
        settings.emr_primary_type, settings.emr_core_type, settings.emr_most_nodes
    )


def check_hourly_cost(settings: Settings) -> None:
    """Raises `FruitsError` where a cluster may cost more than FRUITS_EMR_MAX_HOURLY_COST."""
    cost = hourly_cost(settings)
    if cost > settings.emr_max_hourly_cost:
        raise FruitsError(
            f"A cluster of {settings.emr_most_nodes} core nodes {settings.emr_core_type} and a primary node "
            f"{settings.emr_primary_type} may cost {cost:.2f} USD an hour, more than "
            f"FRUITS_EMR_MAX_HOURLY_COST={settings.emr_max_hourly_cost:.2f}. Use fewer or smaller nodes, or "
            "raise the limit."
        )


def cluster_request(settings: Settings, stack: Stack, owner: str) -> dict[str, Any]:
    """The parameters of RunJobFlow for a cluster of an owner.

    Raises `FruitsError` where FRUITS_EMR_LOGS is a URI to which nodes may not write, for an instance type
    that the stack does not permit, and where nodes with Graviton processors would have no wheelhouse.
    """
    logs = settings.emr_logs or stack.log_uri
    if not logs.startswith(stack.log_uri):
        raise FruitsError(
            f"FRUITS_EMR_LOGS={logs} is not below {stack.log_uri}, and nodes may write no logs elsewhere. "
            "Name a prefix below it."
        )
    for instance_type in (settings.emr_primary_type, settings.emr_core_type):
        stack.check_instance_type(instance_type)
    tags = {**settings.emr_tags, **CLUSTER_TAGS, OWNER_TAG: owner}
    request: dict[str, Any] = {
        "Name": _name(owner),
        "ReleaseLabel": settings.emr_release,
        "Applications": [{"Name": name} for name in ("Spark", *settings.emr_applications)],
        "LogUri": logs,
        "ServiceRole": stack.service_role,
        "JobFlowRole": stack.instance_profile,
        "SecurityConfiguration": stack.security_configuration,
        "Instances": {
            "InstanceGroups": [
                {
                    "Name": "primary",
                    "InstanceRole": "MASTER",
                    "Market": "ON_DEMAND",
                    "InstanceType": settings.emr_primary_type,
                    "InstanceCount": 1,
                },
                {
                    "Name": "core",
                    "InstanceRole": "CORE",
                    "Market": "SPOT" if settings.emr_spot else "ON_DEMAND",
                    "InstanceType": settings.emr_core_type,
                    "InstanceCount": settings.emr_core_nodes,
                },
            ],
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": False,
            "Ec2SubnetId": stack.subnet,
            "EmrManagedMasterSecurityGroup": stack.primary_security_group,
            "EmrManagedSlaveSecurityGroup": stack.core_security_group,
            "ServiceAccessSecurityGroup": stack.service_security_group,
        },
        "BootstrapActions": [
            stack.bootstrap_action(common_architecture(settings.emr_primary_type, settings.emr_core_type))
        ],
        "Configurations": [
            {
                "Classification": "spark-defaults",
                "Properties": {
                    "spark.pyspark.python": NODE_PYTHON,
                    # So the cluster's own History Server shows its steps too.
                    "spark.history.fs.logDirectory": f"{settings.store}/{EVENT_LOGS}",
                    **ON_S3,
                },
            },
            *_hadoop_configurations(settings),
        ],
        # So AWS keeps no copy of the logs, which name paths and classes. Without it, the pages of Spark in
        # EMR's console are empty. https://docs.aws.amazon.com/emr/latest/APIReference/API_S3LoggingConfiguration.html
        "MonitoringConfiguration": {
            "S3LoggingConfiguration": {
                "LogTypeUploadPolicy": {
                    "system-logs": "on-customer-s3only",
                    "application-logs": "on-customer-s3only",
                    "persistent-ui-logs": "disabled",
                }
            }
        },
        # Ends the cluster where the process that would terminate it has died.
        "AutoTerminationPolicy": {"IdleTimeout": 60 * settings.emr_idle_minutes},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    if settings.emr_key_name:
        request["Instances"]["Ec2KeyName"] = settings.emr_key_name
    if settings.emr_max_nodes:
        limits: dict[str, Any] = {
            "UnitType": "Instances",
            "MinimumCapacityUnits": settings.emr_core_nodes,
            "MaximumCapacityUnits": settings.emr_max_nodes,
        }
        if settings.emr_spot:
            limits["MaximumOnDemandCapacityUnits"] = 0
        request["ManagedScalingPolicy"] = {"ComputeLimits": limits}
    return request


def _hadoop_configurations(settings: Settings) -> list[dict[str, Any]]:
    """The settings of YARN, HDFS and S3A in RunJobFlow's `Configurations`."""
    properties = {
        "yarn-site": yarn_site(settings.emr_core_type),
        # EMR's default. By cores too, YARN would start no executor beside an application master.
        "capacity-scheduler": {
            "yarn.scheduler.capacity.resource-calculator": (
                "org.apache.hadoop.yarn.util.resource.DefaultResourceCalculator"
            )
        },
        "core-site": {"fs.s3a.endpoint.region": settings.region},
    }
    # HDFS has the code of a running step. Below four core nodes, EMR would keep one copy, so that a lost node
    # ends the step. From ten on, EMR keeps three
    # (https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html).
    if 2 <= settings.emr_core_nodes < 10:
        properties["hdfs-site"] = {"dfs.replication": "2"}
    return [{"Classification": name, "Properties": values} for name, values in properties.items()]


def _name(owner: str) -> str:
    return f"fruits {owner}"
