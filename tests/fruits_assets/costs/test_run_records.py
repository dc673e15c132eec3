"""The record of a stage: how it is written to the store, read back and checked."""

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import dagster as dg
import pytest

from fruits_assets.costs.recording import record_stage
from fruits_assets.costs.run_records import STAGES, parse_record, read_records, record_path, write_record
from resources.job_runner import Execution, JobRun
from resources.settings import Settings
from spark_jobs.store.root import open_root
from spark_jobs.wire import Measured
from tests.support import RECORD


def changed(**fields: Any) -> bytes:
    return json.dumps(asdict(RECORD) | fields).encode()


def test_a_record_is_read_as_it_was_written(store: str) -> None:
    write_record(open_root(store), RECORD)
    assert read_records(open_root(store)) == ([RECORD], [])
    written = json.loads(open_root(store).read("run_records/run-1/mobilenet_features.json"))
    assert written["images_per_second"] == 304.0


def test_records_are_sorted_by_time_across_time_zones(store: str) -> None:
    late = replace(RECORD, run="a", finished="2026-11-23T11:30:00+02:00", stage=STAGES[0])
    early = replace(RECORD, run="b", finished="2026-11-23T09:00:00+00:00")
    for record in (RECORD, late, early):
        write_record(open_root(store), record)
    assert read_records(open_root(store))[0] == [early, late, RECORD]


def test_a_second_attempt_of_a_stage_replaces_its_record(store: str) -> None:
    write_record(open_root(store), RECORD)
    write_record(open_root(store), replace(RECORD, seconds=20.0))
    assert [record.seconds for record in read_records(open_root(store))[0]] == [20.0]


def test_a_store_without_runs_has_no_records(store: str) -> None:
    assert read_records(open_root(store)) == ([], [])


def test_invalid_records_are_listed_beside_the_valid_ones(store: str) -> None:
    root = open_root(store)
    write_record(root, RECORD)
    root.write(record_path("run-0", "pca_model"), b'{"run": "run-0"')
    root.write(record_path("run-2", "pca_model"), b"\xff\xfe")
    assert read_records(root) == (
        [RECORD],
        ["run_records/run-0/pca_model.json", "run_records/run-2/pca_model.json"],
    )


def test_fields_of_a_later_version_are_ignored() -> None:
    assert parse_record(changed(colour="red")) == RECORD


def test_an_int_is_accepted_for_a_float() -> None:
    assert parse_record(changed(seconds=20)).seconds == 20


def test_fields_that_are_not_known_may_be_absent() -> None:
    content = {
        name: value
        for name, value in asdict(RECORD).items()
        if name not in ("nodes", "cores", "instance_type", "cost_usd", "weights", "weights_sha256")
    }
    assert parse_record(json.dumps(content).encode()).cost_usd is None


def test_the_record_of_an_emr_step_has_its_nodes_and_its_price(store: str) -> None:
    settings = Settings(env="emr", images="s3://photos", store="s3://store", _env_file=None)
    settings = settings.model_copy(update={"store": store})
    execution = Execution(
        engine="EMR cluster j-1, 2 core nodes m5.xlarge",
        nodes=2,
        cores=8,
        instance_type="m5.xlarge",
        estimated_cost_usd=0.0227,
        details={"emr_step_seconds": 130.0},
    )
    driver_versions = {"python": "3.9.1", "spark": "3.5.6-amzn-0", "emr": "emr-7.13.0"}
    run = JobRun(None, Measured(100.0, "application_1", driver_versions), execution)

    @dg.asset(name="mobilenet_features", code_version="7")
    def stage(context: dg.AssetExecutionContext) -> None:
        extractor = {"weights": "embedded", "weights_sha256": "ab" * 32, "trained": True}
        record_stage(
            context,
            settings,
            run,
            images=2000,
            classes=20,
            bytes_written=10_000_000,
            extractor=extractor,
        )

    result = dg.materialize([stage], tags={"fruits/owner": "command-1"})
    [record], _ = read_records(open_root(store))
    assert (record.run, record.owner, record.stage) == (result.run_id, "command-1", "mobilenet_features")
    assert (record.environment, record.images, record.classes, record.bytes) == ("emr", 2000, 20, 10_000_000)
    assert (record.nodes, record.cores, record.instance_type) == (2, 8, "m5.xlarge")
    assert (record.seconds, record.images_per_second, record.cost_usd) == (100.0, 20.0, 0.0227)
    assert (record.weights, record.weights_sha256) == ("embedded", "ab" * 32)
    platform_versions = {"fruits-platform": version("fruits-platform"), "mobilenet_features": "7"}
    assert record.versions == driver_versions | platform_versions


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"7",
        b"{}",
        changed(stage="feature_quality"),
        changed(images="many"),
        changed(images=True),
        changed(images=-1),
        changed(images=10**400),
        changed(known_classes=-5),
        changed(cost_usd=1e308),
        changed(instance_type="m5\n.xlarge"),
        changed(run="\x1b[2J"),
        changed(seconds=float("nan")),
        changed(cost_usd=float("inf")),
        changed(cores=[8]),
        changed(cores=0),
        changed(nodes=-1),
        changed(finished="yesterday"),
        changed(finished="2026-11-23T10:00:00"),
        changed(versions={"python": 3}),
        changed(versions=None),
        changed(environment="moon"),
    ],
)
def test_an_invalid_record_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_record(content)
