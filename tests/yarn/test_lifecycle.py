"""Clusters that the runs start and terminate, in an account with the project's stack.

The user of Dagster has only the stack's policy for operators. The nodes have the stack's role. The server
judges every call by these policies.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from botocore.exceptions import ClientError

from benchmarks.photo_sets import variant
from fruits_assets.jobs import BRING_UP_TO_DATE
from fruits_assets.partitions import register_classes
from rehearsal.account import Account, prepare_account
from rehearsal.aws import client_of
from rehearsal.environment import RehearsalEnvironment, start_environment
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV, RAW_IMAGES
from tests.dagster_ui import dagster_ui
from tests.support import DAGSTER_YAML, current_versions, wait_for
from tests.yarn.emr_runs import MINUTES, Run, copy_photos, finish, start, start_raw_images

LABELS = ["Kiwi", "Lychee", "Mango", "Orange", "Plum"]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsalEnvironment]:
    """The services of the account. Its own cluster is not used."""
    with start_environment(tmp_path_factory.mktemp("rehearsal")) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="module")
def account(services: RehearsalEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The account with photos in its bucket."""
    folder = tmp_path_factory.mktemp("account")
    account = prepare_account(services.aws, {})
    copy_photos(folder, LABELS, 4)
    s3 = client_of(account.administrator, "s3")
    for file in folder.rglob("*.jpg"):
        key = f"photos/{file.relative_to(folder)}"
        s3.put_object(Bucket=account.outputs["Bucket"], Key=key, Body=file.read_bytes())
    return account


@pytest.fixture
def settings(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The operator's settings with an empty store; also sets the AWS variables in this process."""
    for name, value in account.operator.items():
        monkeypatch.setenv(name, value)
    return {
        **account.operator,
        "FRUITS_ENV": "emr",
        # Empty: overrides the cluster of the session's rehearsal.
        "FRUITS_EMR_CLUSTER": "",
        "FRUITS_IMAGES": account.outputs["ImagesUri"],
        "FRUITS_STORE": f"{account.outputs['StoreUri']}/{tmp_path.name}",
        "FRUITS_WEIGHTS": "embedded",
    }


def clusters(account: Account) -> dict[str, str]:
    """The state of each cluster that a run started by id, the newest first."""
    listed = client_of(account.administrator, "emr").list_clusters()["Clusters"]
    return {
        cluster["Id"]: cluster["Status"]["State"]
        for cluster in listed
        if cluster["Name"].startswith("fruits ")
    }


def started_since(account: Account, before: dict[str, str]) -> dict[str, str]:
    """The clusters that are not in `before`."""
    return {identity: state for identity, state in clusters(account).items() if identity not in before}


def start_until_a_step_runs(account: Account, home: Path, settings: dict[str, str]) -> tuple[Run, str]:
    """Starts a run, and waits until its first step runs. Returns the run and the id of its cluster."""
    before = clusters(account)
    run = start(home, **settings)
    [identity] = wait_for(lambda: started_since(account, before))
    emr = client_of(account.administrator, "emr")
    wait_for(lambda: emr.list_steps(ClusterId=identity, StepStates=["RUNNING"])["Steps"])
    return run, identity


def check_that_step_and_cluster_ended(account: Account, identity: str) -> None:
    wait_for(lambda: clusters(account)[identity] == "TERMINATED", 30)
    [step] = client_of(account.administrator, "emr").list_steps(ClusterId=identity)["Steps"]
    assert step["Status"]["State"] == "CANCELLED"


def check_that_policies_allowed_every_call(account: Account, decided: int, cluster: str) -> None:
    """Checks the decisions after the first `decided`: the policies of operator and nodes allow each call.

    Except the policy inside of RunJobFlow, which the run then puts on the cluster.
    """
    decisions = account.aws.decisions()[decided:]
    refused = [(each["action"], each["arn"]) for each in decisions if not each["allowed"]]
    [inside] = [action for action, arn in refused if arn.endswith(":cluster/*")]
    assert inside == "elasticmapreduce:PutAutoTerminationPolicy"
    assert [call for call in refused if call[0] != inside] == []

    def used(principal: str) -> set[str]:
        """The names of the statements that allowed calls of a principal, whose ARN ends with `principal`."""
        allowed = [each for each in decisions if each["allowed"] and each["principal"].endswith(principal)]
        statements = [each["statement"] for each in allowed]
        return {statement.partition("/")[2] for statement in statements}

    assert used(":user/operator") == {
        *("StartClusters", "FindClusters", "UseClusters", "TagClusters", "PassServiceRole", "PassNodeRole"),
        *("ReadThisStack", "KnowBucket", "List", "ListPhotos", "ReadAndWriteStore"),
    }
    # The session of the nodes has the name of their cluster.
    assert used(f"/{cluster}") >= {"List", "Read", "WriteOutputs", "WriteLogs"}


def test_a_run_starts_and_terminates_one_cluster_in_the_stack(
    account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    before, decided = clusters(account), len(account.aws.decisions())
    out = finish(start(tmp_path, "--components", "3", **settings))
    [identity] = started_since(account, before)
    assert f"Terminated the cluster {identity}" in out
    emr = client_of(account.administrator, "emr")
    wait_for(lambda: clusters(account)[identity] == "TERMINATED", 30)
    cluster = emr.describe_cluster(ClusterId=identity)["Cluster"]
    assert cluster["ServiceRole"] == account.outputs["ServiceRole"]
    attributes = cluster["Ec2InstanceAttributes"]
    assert attributes["IamInstanceProfile"] == account.outputs["InstanceProfile"]
    assert attributes["Ec2SubnetId"] == account.outputs["Subnet"]
    assert emr.get_auto_termination_policy(ClusterId=identity)["AutoTerminationPolicy"] == {
        "IdleTimeout": 900
    }
    steps = emr.list_steps(ClusterId=identity)["Steps"]
    assert [step["Status"]["State"] for step in steps] == ["COMPLETED"] * 4
    logs = client_of(account.operator, "s3").list_objects_v2(
        Bucket=account.outputs["Bucket"], Prefix=f"logs/{identity}/steps/"
    )
    assert logs["KeyCount"] >= 4
    check_that_policies_allowed_every_call(account, decided, identity)


def test_a_small_job_on_two_nodes_stays_on_two_where_more_may_be_added(
    services: RehearsalEnvironment, account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    # Managed scaling follows the containers that wait for nodes:
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/managed-scaling-metrics.html
    before = clusters(account)
    finish(start_raw_images(tmp_path, LABELS, **settings, FRUITS_EMR_MAX_NODES="4"))
    [identity] = started_since(account, before)
    emr = client_of(account.administrator, "emr")
    policy = emr.get_managed_scaling_policy(ClusterId=identity)["ManagedScalingPolicy"]
    assert policy["ComputeLimits"]["MaximumCapacityUnits"] == 4
    [application] = services.yarn.applications(identity)
    assert application["finalStatus"] == "SUCCEEDED"
    # Nodes that have left are listed too.
    assert list(services.yarn.nodes().values()) == ["RUNNING", "RUNNING"]


def test_a_failed_run_terminates_its_cluster(
    account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    before = clusters(account)
    finish(start(tmp_path, "--components", "1000", **settings), 1)
    [identity] = started_since(account, before)
    wait_for(lambda: clusters(account)[identity] == "TERMINATED", 30)


def test_a_terminated_run_ends_its_step_and_its_cluster(
    account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    run, identity = start_until_a_step_runs(account, tmp_path, settings)
    run.send_signal(signal.SIGTERM)
    assert f"Terminated the cluster {identity}" in finish(run, 130)
    check_that_step_and_cluster_ended(account, identity)


def test_the_next_run_terminates_the_cluster_of_a_killed_process(
    account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    killed, identity = start_until_a_step_runs(account, tmp_path, settings)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    # The limit of cost ends the next run before it starts a cluster.
    out = finish(start(tmp_path, **settings, FRUITS_EMR_MAX_HOURLY_COST="0.5"), 1)
    assert f"Terminated the cluster {identity}" in out
    check_that_step_and_cluster_ended(account, identity)


def test_a_run_above_the_limit_of_cost_starts_no_cluster(
    account: Account, settings: dict[str, str], tmp_path: Path
) -> None:
    before = clusters(account)
    out = finish(start(tmp_path, **settings, FRUITS_EMR_MAX_HOURLY_COST="0.5"), 1)
    assert "may cost 0.82 USD an hour, more than FRUITS_EMR_MAX_HOURLY_COST=0.50" in out
    assert not started_since(account, before)


def test_the_operator_may_not_write_outside_the_store(account: Account) -> None:
    s3, bucket = client_of(account.operator, "s3"), account.outputs["Bucket"]
    for key in ("photos/Kiwi/new.jpg", "elsewhere/x"):
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_bucket(Bucket=bucket)


@pytest.mark.slow
def test_new_photos_of_scattered_classes_become_one_run_on_a_cluster_that_ends_with_it(
    account: Account, settings: dict[str, str], tmp_path: Path, port: int
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(DAGSTER_YAML, home)
    environment = {**os.environ, **settings, "DAGSTER_HOME": str(home), "FRUITS_OBSERVE_SECONDS": "10"}
    with dagster_ui(environment, port, tmp_path) as ui:
        first = ui.launch(BRING_UP_TO_DATE, {"components": 3})
        assert ui.wait_for_run(first, 5 * MINUTES) == "SUCCESS", ui.log.read_text()
        ui.switch_on("photo_observation")  # off by default on S3
        ui.switch_on("keep_up_to_date")
        by_sensor = [{"key": "dagster/sensor_name", "value": "keep_up_to_date"}]
        wait_for(lambda: ui.runs(tags=by_sensor, statuses=["SUCCESS"]), 2 * MINUTES)
        before, s3 = clusters(account), client_of(account.administrator, "s3")
        for label in (LABELS[0], LABELS[3]):
            photo, bucket = tmp_path / f"{label}.jpg", account.outputs["Bucket"]
            s3.download_file(bucket, f"photos/{label}/0_100.jpg", str(photo))
            s3.put_object(Bucket=bucket, Key=f"photos/{label}/new.jpg", Body=variant(photo, 7))

        def follows_photos() -> bool:
            csvs = current_versions(open_root(settings["FRUITS_STORE"]), PCA_FEATURES_CSV)
            return {label: csvs[label].rows for label in LABELS} == {
                label: 5 if label in (LABELS[0], LABELS[3]) else 4 for label in LABELS
            }

        wait_for(follows_photos, 5 * MINUTES)
        [run, *_] = ui.runs(tags=by_sensor)
        assert run["tags"]["fruits/classes"] == f"{LABELS[0]}, {LABELS[3]}"
        assert ui.wait_for_run(run["runId"]) == "SUCCESS"
        [identity] = started_since(account, before)
        wait_for(lambda: clusters(account)[identity] == "TERMINATED", MINUTES)


@pytest.mark.slow
def test_the_runs_of_a_backfill_share_a_cluster_that_ends_after_them(
    account: Account, settings: dict[str, str], tmp_path: Path, port: int
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    # No queue: all runs start at once, and none finds a cluster.
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    before = clusters(account)
    with dagster_ui({**os.environ, **settings, "DAGSTER_HOME": str(home)}, port, tmp_path) as ui:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            register_classes(instance, LABELS)
        backfill = ui.backfill([RAW_IMAGES], LABELS[::2])
        wait_for(lambda: ui.backfill_status(backfill) == "COMPLETED_SUCCESS", 8 * MINUTES)

        def ended_clusters() -> dict[str, str] | None:
            found = started_since(account, before)
            return found if found and set(found.values()) == {"TERMINATED"} else None

        states = wait_for(ended_clusters, 3 * MINUTES)
    emr = client_of(account.administrator, "emr")
    steps = [len(emr.list_steps(ClusterId=identity)["Steps"]) for identity in states]
    # Runs may start several clusters at the same moment; only one runs steps.
    assert sorted(steps, reverse=True)[0] == 3 and sum(steps) == 3, ui.log.read_text()
    raw = current_versions(open_root(settings["FRUITS_STORE"]), RAW_IMAGES)
    assert set(LABELS[::2]) <= raw.keys()
