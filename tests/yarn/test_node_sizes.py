"""Clusters of m6i.xlarge with the memory that EMR gives YARN there, of one core node and of two."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rehearsal.environment import RehearsalEnvironment, start_cluster, start_environment
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from tests.support import current_versions, wait_for
from tests.yarn.emr_runs import copy_photos, finish, on_emr, start, start_raw_images, upload

# `yarn.nodemanager.resource.memory-mb` of m6i.xlarge in EMR's table, less than 75 % of its 16 GiB:
# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hadoop-task-config.html
TYPE, YARN_MIB = "m6i.xlarge", 11_712
LABELS = ["Kiwi", "Lychee"]


def containers(rehearsal: RehearsalEnvironment) -> list[int]:
    """The number of containers that the newest application has had on each of its nodes, in falling order."""
    newest = max(app["id"] for app in rehearsal.yarn.applications())
    logs = rehearsal.yarn.folder.glob(f"node*/logs/{newest}/*")
    nodes = Counter(log.relative_to(rehearsal.yarn.folder).parts[0] for log in logs)
    return sorted(nodes.values(), reverse=True)


@contextmanager
def one_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> Iterator[tuple[RehearsalEnvironment, str]]:
    """A rehearsal with one core node, and the URI of photos. `open_root` caches by URI, so buckets differ."""
    (folder / "photos").mkdir()
    copy_photos(folder / "photos", LABELS, 6)
    with start_environment(
        folder / "rehearsal", bucket=bucket, instance_type=TYPE, memory_mb=YARN_MIB, nodes=1
    ) as rehearsal:
        for name, value in rehearsal.variables().items():
            monkeypatch.setenv(name, value)
        yield rehearsal, upload(folder / "photos", f"s3://{bucket}/photos")


def test_every_node_takes_an_executor_beside_the_application_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_node(tmp_path, monkeypatch, "m6i") as (rehearsal, photos):
        finish(start_raw_images(tmp_path / "one", LABELS, **on_emr(rehearsal, photos, "one_node")))
        assert containers(rehearsal) == [2]
        rehearsal.yarn.start_node()
        wait_for(lambda: list(rehearsal.yarn.nodes().values()) == ["RUNNING"] * 2, 60)
        cluster = start_cluster(rehearsal.aws, rehearsal.bucket, TYPE, nodes=2)
        finish(start_raw_images(tmp_path / "two", LABELS, **on_emr(rehearsal, photos, "two_nodes", cluster)))
        assert containers(rehearsal) == [2, 1]


@pytest.mark.slow
def test_a_run_completes_on_a_single_core_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_node(tmp_path, monkeypatch, "m6i-alone") as (rehearsal, photos):
        settings = on_emr(rehearsal, photos, "store")
        finish(start(tmp_path, "--components", "5", **settings))
        csvs = current_versions(open_root(settings["FRUITS_STORE"]), PCA_FEATURES_CSV)
        assert {label: table.rows for label, table in csvs.items()} == dict.fromkeys(LABELS, 6)
