"""Start, search and termination of clusters on moto's EMR. The tests of the rehearsal run steps on them."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from fruits_assets.automation.sensors import ended_clusters
from resources.emr.lifecycle import (
    cluster_request,
    find_or_start_cluster,
    owned_clusters,
    terminate_clusters,
)
from resources.emr.sizing import spark_submit_conf
from resources.emr.stack import Stack
from resources.run_locks import held_lock
from resources.runs import BACKFILL_TAG, OWNER_TAG, ends_with, owner_of, owner_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from tests.support import leave_lock

SNAPSHOT = Path(__file__).with_name("run_job_flow.json")
RENEW = "RENEW_RUN_JOB_FLOW"

PARIS = "eu-west-3"
STACK = Stack(
    bucket="fruits-bucket",
    images_uri="s3://fruits-bucket/photos",
    store_uri="s3://fruits-bucket/store",
    log_uri="s3://fruits-bucket/logs/",
    bootstrap_uri="s3://fruits-bucket/bootstrap/bootstrap.sh",
    lock_uri="s3://fruits-bucket/bootstrap/requirements.lock",
    wheelhouse_uri="s3://fruits-bucket/bootstrap/wheelhouse/",
    service_role="fruits-service",
    instance_profile="fruits-node",
    instance_types="m5.*,m6g.*,m6i.*,m7g.*,r5.*,c7g.*",
    security_configuration="fruits-disks",
    subnet="subnet-0123456789abcdef0",
    primary_security_group="sg-0123456789abcdef0",
    core_security_group="sg-0123456789abcdef1",
    service_security_group="sg-0123456789abcdef2",
    operator_policy_arn="arn:aws:iam::123456789012:policy/fruits-operator",
    erasure_policy_arn="arn:aws:iam::123456789012:policy/fruits-erasure",
)


def settings(**given: Any) -> Settings:
    defaults = {"images": STACK.images_uri, "store": STACK.store_uri}
    return Settings(env="emr", **{**defaults, **given}, _env_file=None)


def requests() -> dict[str, Any]:
    """The requests for clusters with default settings, with Graviton processors, and with every setting."""
    everything = settings(
        emr_release="emr-7.12.0",
        emr_primary_type="m5.2xlarge",
        emr_core_type="r5.2xlarge",
        emr_core_nodes=3,
        emr_max_nodes=20,
        emr_spot=True,
        emr_idle_minutes=30,
        emr_logs="s3://fruits-bucket/logs/team/",
        emr_tags={"team": "data"},
        emr_applications=["JupyterEnterpriseGateway"],
        emr_key_name="jane",
    )
    online = STACK._replace(wheelhouse_uri=None)
    graviton = settings(emr_primary_type="m6g.xlarge", emr_core_type="m7g.2xlarge", emr_core_nodes=1)
    return {
        "by default": cluster_request(settings(), STACK, "a-backfill"),
        "one core node with a Graviton processor": cluster_request(graviton, STACK, "a-run"),
        "with every setting": cluster_request(everything, online, "a-run"),
    }


def test_the_request_for_a_cluster_equals_the_snapshot() -> None:
    found = requests()
    if os.environ.get(RENEW):
        SNAPSHOT.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(SNAPSHOT.read_text()), (
        f"The request differs from {SNAPSHOT}. To accept it: {RENEW}=1 pytest {__file__}"
    )


@pytest.fixture
def emr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    # Outputs without a stack. The tests of the rehearsal deploy a stack.
    monkeypatch.setattr("resources.emr.lifecycle.stack_outputs", lambda _: STACK)
    with mock_aws():
        yield boto3.client("emr", region_name=PARIS)


def test_an_owner_has_one_cluster_until_it_is_terminated(emr: Any) -> None:
    first = find_or_start_cluster(emr, settings(), "a-backfill")
    assert find_or_start_cluster(emr, settings(), "a-backfill") == first
    assert find_or_start_cluster(emr, settings(), "another") != first
    assert terminate_clusters(emr, "a-backfill") == [first]
    assert find_or_start_cluster(emr, settings(), "a-backfill") != first


class Policies:
    """EMR's client, of an account that refuses policies in RunJobFlow, and the calls that put them later.

    AWS does not document whether a new cluster has its tags when EMR asks for the permission of the operator.
    `refusals` is the number of calls on the cluster that AWS refuses first, as before it knows the tags.
    """

    def __init__(self, emr: Any, refusals: int) -> None:
        self._emr, self._refusals, self.put = emr, refusals, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emr, name)

    def run_job_flow(self, **request: Any) -> Any:
        if "AutoTerminationPolicy" in request or "ManagedScalingPolicy" in request:
            raise _denied("RunJobFlow", "elasticmapreduce:PutAutoTerminationPolicy")
        return self._emr.run_job_flow(**request)

    def put_auto_termination_policy(self, **policy: Any) -> None:
        self._put(policy)

    def put_managed_scaling_policy(self, **policy: Any) -> None:
        self._put(policy)

    def _put(self, policy: dict[str, Any]) -> None:
        self._refusals -= 1
        if self._refusals >= 0:
            raise _denied("PutAutoTerminationPolicy", "elasticmapreduce:PutAutoTerminationPolicy")
        self.put |= policy


def _denied(operation: str, action: str) -> ClientError:
    message = f"User: operator is not authorized to perform: {action}"
    return ClientError({"Error": {"Code": "AccessDeniedException", "Message": message}}, operation)


def test_a_cluster_gets_its_policies_later_where_the_request_may_not_have_them(
    emr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.emr.lifecycle.POLL_SECONDS", 0.01)
    policies = Policies(emr, refusals=2)
    cluster = find_or_start_cluster(policies, settings(emr_max_nodes=4), "a-run")
    request = requests()["by default"]
    assert policies.put["ClusterId"] == cluster
    assert policies.put["AutoTerminationPolicy"] == request["AutoTerminationPolicy"]
    limits = policies.put["ManagedScalingPolicy"]["ComputeLimits"]
    assert (limits["MinimumCapacityUnits"], limits["MaximumCapacityUnits"]) == (2, 4)
    assert owned_clusters(emr, "a-run") == [cluster]


def test_a_cluster_that_gets_no_policy_is_terminated(emr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.emr.lifecycle._TAG_SECONDS", 0)
    with pytest.raises(ClientError, match="PutAutoTerminationPolicy"):
        find_or_start_cluster(Policies(emr, refusals=100), settings(), "a-run")
    [cluster] = emr.list_clusters()["Clusters"]
    assert cluster["Status"]["State"].startswith("TERMINAT")


def test_two_runs_that_start_at_once_share_one_cluster(emr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def owned_at_the_same_time(emr: Any, owner: str) -> list[str]:
        # Both search before either starts a cluster, and again after both have started one. The times of
        # moto are whole seconds.
        both.wait(30)
        found = owned_clusters(emr, owner)
        both.wait(30)
        return found

    monkeypatch.setattr("resources.emr.lifecycle.owned_clusters", owned_at_the_same_time)
    chosen: list[str] = []

    def start() -> None:
        chosen.append(find_or_start_cluster(emr, settings(), "a-backfill"))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(emr.list_clusters()["Clusters"]) == 2
    assert [*set(chosen)] == owned_clusters(emr, "a-backfill")


def test_a_cluster_of_another_project_is_not_terminated(emr: Any) -> None:
    request = cluster_request(settings(), STACK, "a-backfill")
    request["Tags"] = [{"Key": "project", "Value": "vegetables"}]
    emr.run_job_flow(**request)
    assert owned_clusters(emr, "a-backfill") == []
    assert terminate_clusters(emr, "a-backfill") == []


def test_a_cluster_has_the_owner_of_its_name_whatever_its_tags_say(emr: Any) -> None:
    cluster = find_or_start_cluster(emr, settings(), "a-backfill")
    emr.add_tags(ResourceId=cluster, Tags=[{"Key": OWNER_TAG, "Value": "another"}])
    assert owned_clusters(emr, "another") == []


def test_a_type_that_the_stack_does_not_permit_is_refused_with_the_remedy(emr: Any) -> None:
    with pytest.raises(FruitsError, match=r"permits no instances c5\.xlarge, but m5\.\*.*--instance-types"):
        cluster_request(settings(emr_core_type="c5.xlarge"), STACK, "a-run")


def test_a_cluster_above_the_cost_limit_is_not_started(emr: Any) -> None:
    expected = r"4 core nodes m5.4xlarge and a primary node m5.xlarge may cost 4.62 USD an hour, more than "
    with pytest.raises(FruitsError, match=f"{expected}FRUITS_EMR_MAX_HOURLY_COST=2.00"):
        find_or_start_cluster(emr, settings(emr_core_type="m5.4xlarge", emr_max_nodes=4), "a-run")
    with pytest.raises(FruitsError, match=r"have none for m7i\.xlarge"):
        find_or_start_cluster(emr, settings(emr_core_type="m7i.xlarge"), "a-run")
    assert emr.list_clusters()["Clusters"] == []


def test_a_log_prefix_that_nodes_may_not_write_is_refused() -> None:
    with pytest.raises(FruitsError, match="s3://other/logs/ is not below s3://fruits-bucket/logs/"):
        cluster_request(settings(emr_logs="s3://other/logs/"), STACK, "a-run")


def configurations(given: Settings) -> dict[str, dict[str, str]]:
    """The properties of a cluster's software by classification."""
    request = cluster_request(given, STACK, "a-run")
    return {each["Classification"]: each["Properties"] for each in request["Configurations"]}


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize(("core_nodes", "copies"), [(1, None), (2, "2"), (3, "2"), (9, "2"), (10, None)])
def test_hdfs_keeps_two_copies_of_a_steps_code_where_emr_would_keep_one(
    core_nodes: int, copies: str | None, spot: bool
) -> None:
    # By default, EMR keeps one copy below four core nodes, two below ten, and three from there on
    # (https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html).
    found = configurations(settings(emr_core_nodes=core_nodes, emr_spot=spot))
    assert found.get("hdfs-site", {}).get("dfs.replication") == copies


def test_a_cluster_gives_yarn_the_memory_by_which_its_executors_are_sized() -> None:
    found = configurations(settings(emr_core_type="m6i.2xlarge"))["yarn-site"]
    conf = spark_submit_conf("m6i.2xlarge", 2, PARIS)
    executor = sum(int(conf[f"spark.executor.memory{part}"][:-1]) for part in ("", "Overhead"))
    assert executor + 896 <= int(found["yarn.nodemanager.resource.memory-mb"])
    assert found["yarn.scheduler.maximum-allocation-mb"] == found["yarn.nodemanager.resource.memory-mb"]


def test_nodes_with_graviton_processors_need_a_wheelhouse() -> None:
    graviton = settings(emr_primary_type="m6g.xlarge", emr_core_type="m6g.xlarge")
    with pytest.raises(FruitsError, match=r"aarch64.* openvino .*fruits emr deploy --wheelhouse"):
        cluster_request(graviton, STACK._replace(wheelhouse_uri=None), "a-run")


def test_the_sensor_terminates_the_cluster_of_an_ended_run(emr: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        ended, running = (
            instance.add_run(dg.DagsterRun("job", status=status)).run_id
            for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)
        )
        mine = {owner: find_or_start_cluster(emr, settings(), owner) for owner in (ended, running, "unknown")}
        context = dg.build_sensor_context(instance=instance)
        sensor: Callable[..., Any] = ended_clusters(settings())
        assert mine[ended] in str(sensor(context).skip_message)
        assert not owned_clusters(emr, ended)
        assert owned_clusters(emr, running) and owned_clusters(emr, "unknown")
        assert "No cluster has outlived" in str(sensor(context).skip_message)


def test_the_sensor_terminates_clusters_of_killed_processes_only(emr: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance, held_lock(instance, "between-two-runs"):
        leave_lock(instance, "killed")
        for owner in ("killed", "between-two-runs"):
            tags = owner_tags(owner)
            for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED):
                instance.add_run(dg.DagsterRun("job", status=status, tags=tags))
                find_or_start_cluster(emr, settings(), owner)
            instance.report_run_failed(next(iter(instance.get_runs())))
        ended_clusters(settings())(dg.build_sensor_context(instance=instance))
    assert owned_clusters(emr, "killed") == []
    assert len(owned_clusters(emr, "between-two-runs")) == 1


def test_a_retry_shares_the_cluster_of_its_first_run_and_ends_it() -> None:
    first = dg.DagsterRun("job")
    repeated = dg.DagsterRun("job", root_run_id=first.run_id, parent_run_id=first.run_id)
    assert owner_of(repeated) == owner_of(first) == first.run_id
    assert ends_with(first) and ends_with(repeated)
    of_backfill, of_fruits_run = (dg.DagsterRun("job", tags={tag: "it"}) for tag in (BACKFILL_TAG, OWNER_TAG))
    assert not ends_with(of_backfill) and not ends_with(of_fruits_run)
    first_id = of_fruits_run.run_id
    again = dg.DagsterRun("job", tags=of_fruits_run.tags, root_run_id=first_id, parent_run_id=first_id)
    assert ends_with(again)
