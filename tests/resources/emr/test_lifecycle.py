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
from moto import mock_aws

from fruits_assets.automation.sensors import ended_clusters
from resources.emr.lifecycle import (
    cluster_request,
    find_or_start_cluster,
    owned_clusters,
    terminate_clusters,
)
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
    """The requests for a cluster with default settings, and with every setting."""
    everything = settings(
        emr_release="emr-7.12.0",
        emr_primary_type="m5.large",
        emr_core_type="r5.2xlarge",
        emr_core_nodes=3,
        emr_max_nodes=20,
        emr_spot=True,
        emr_step_concurrency=4,
        emr_idle_minutes=30,
        emr_logs="s3://fruits-bucket/logs/team/",
        emr_tags={"team": "data"},
        emr_key_name="jane",
    )
    online = STACK._replace(wheelhouse_uri=None)
    return {
        "by default": cluster_request(settings(), STACK, "a-backfill"),
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
