"""Clusters that are started for a run or a backfill, found by their tags, and terminated."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resources.emr.account import NODE_PYTHON
from resources.emr.aws import aws_errors_named, client
from resources.emr.stack import CLUSTER_TAGS, PROJECT_TAG, Stack, stack_outputs
from resources.prices import load_prices
from resources.runs import OWNER_TAG
from resources.settings import Settings
from resources.spark_events import EVENT_LOGS
from spark_jobs.errors import FruitsError

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
    started = emr.run_job_flow(**cluster_request(settings, stack_outputs(settings), owner))["JobFlowId"]
    # EMR's list may not contain the new cluster yet.
    oldest = next(iter(owned_clusters(emr, owner)), started)
    if oldest != started:
        emr.terminate_job_flows(JobFlowIds=[started])
    return oldest


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
        end_clusters(settings, owner, lambda message: print(message, file=sys.stderr))


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
        if PROJECT_TAG.items() <= tags.items() and OWNER_TAG in tags:
            found.append((cluster_id, tags[OWNER_TAG]))
    return found


def hourly_cost(settings: Settings) -> float:
    """The on-demand price of a cluster with all nodes that the settings allow, without disks, in USD an hour.

    Raises `FruitsError` where an instance type has no price.
    """
    core = settings.emr_max_nodes or settings.emr_core_nodes
    return load_prices(settings.prices).cluster_hour(settings.emr_primary_type, settings.emr_core_type, core)


def check_hourly_cost(settings: Settings) -> None:
    """Raises `FruitsError` where a cluster may cost more than FRUITS_EMR_MAX_HOURLY_COST."""
    cost, core = hourly_cost(settings), settings.emr_max_nodes or settings.emr_core_nodes
    if cost > settings.emr_max_hourly_cost:
        raise FruitsError(
            f"A cluster of {core} core nodes {settings.emr_core_type} and a primary node "
            f"{settings.emr_primary_type} may cost {cost:.2f} USD an hour, more than "
            f"FRUITS_EMR_MAX_HOURLY_COST={settings.emr_max_hourly_cost:.2f}. Use fewer or smaller nodes, or "
            "raise the limit."
        )


def cluster_request(settings: Settings, stack: Stack, owner: str) -> dict[str, Any]:
    """The parameters of RunJobFlow for a cluster of an owner.

    Raises `FruitsError` where FRUITS_EMR_LOGS is a URI to which nodes may not write.
    """
    logs = settings.emr_logs or stack.log_uri
    if not logs.startswith(stack.log_uri):
        raise FruitsError(
            f"FRUITS_EMR_LOGS={logs} is not below {stack.log_uri}, and nodes may write no logs elsewhere. "
            "Name a prefix below it."
        )
    tags = {**settings.emr_tags, **CLUSTER_TAGS, OWNER_TAG: owner}
    request: dict[str, Any] = {
        "Name": _name(owner),
        "ReleaseLabel": settings.emr_release,
        "Applications": [{"Name": "Spark"}],
        "LogUri": logs,
        "ServiceRole": stack.service_role,
        "JobFlowRole": stack.instance_profile,
        "StepConcurrencyLevel": settings.emr_step_concurrency,
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
        "BootstrapActions": [stack.bootstrap_action()],
        "Configurations": [
            {
                "Classification": "spark-defaults",
                "Properties": {
                    "spark.pyspark.python": NODE_PYTHON,
                    # So the cluster's own History Server shows its steps too.
                    "spark.history.fs.logDirectory": f"{settings.store}/{EVENT_LOGS}",
                },
            }
        ],
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


def _name(owner: str) -> str:
    return f"fruits {owner}"
