"""Killed, interrupted and concurrent runs: the store stays consistent (see spark_jobs/store/tables.py)."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from spark_jobs import tasks
from spark_jobs.store.leases import held_lease
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.versions import Version
from tests.conftest import CLASSES
from tests.jobs import extract, fit, ingest, project, run_jobs, table
from tests.support import REPOSITORY, current_files, current_versions, publish_extractor, wait_for

# Longer than any of these tests takes. A test that waits this long has found a process that hangs.
TIMEOUT_SECONDS = 120

# A run in a process of its own, as `fruits run` is. It repeats `ingest` and `extract` of every class without
# end. With the engine "loop", a loop replaces Spark, which is slow to start, and only `ingest` runs.
RUN = """
import sys
from types import SimpleNamespace
from spark_jobs import ingest_images
from resources.photo_folders import list_photos
from tests.jobs import extract, ingest
spark, (engine, images, store) = None, sys.argv[1:]
classes = list(list_photos(images).classes)
if engine == "loop":
    ingest_images.run_tasks = lambda spark, stage, function, work, **_: [*map(function, work)]
else:
    from resources.local.session import start_session
    from resources.settings import Settings
    spark = start_session(Settings(images=images, store=store, spark_cores=2))
no_spark = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=1))
print("ready", flush=True)
while True:
    ingest(spark or no_spark, images, store, classes, max_bad_share=1.0, recompute=True)
    if spark is not None:
        extract(spark, store, classes, recompute=True)
"""


@contextmanager
def running(engine: str, photos: Path, store: str) -> Iterator[subprocess.Popen[str]]:
    """Starts the process of a run, in a session of its own, and yields it when it is ready to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, engine, str(photos), store],
        # With DAGSTER_HOME, Spark writes its errors to a log, and stderr has the lines of Python only.
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DAGSTER_HOME": str(photos.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def processes_of(session: int) -> list[psutil.Process]:
    """The live processes of a session: the JVM and the workers of a driver end shortly after the driver."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def assert_consistent(store: str, name: str) -> dict[str, Version]:
    """Asserts that each class has all files and rows that its version names; returns the versions."""
    versions = current_versions(store, name)
    for label, version in versions.items():
        assert not version.damage
        for part in version.parts:
            file = Path(store) / part.path
            metadata = pq.ParquetFile(file).metadata
            groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            assert (groups, file.stat().st_size) == (part.row_groups, part.bytes), label
    return versions


def data_files(store: str, name: str) -> set[str]:
    """The data files of a table, committed or not."""
    return {
        str(path) for path in (Path(store) / name).glob("*/*.parquet") if path.parent.name != "_delta_log"
    }


def commits(store: str, name: str) -> int:
    return len(list((Path(store) / name / "_delta_log").glob("*.json")))


@pytest.fixture
def many_classes(photos: Path) -> Path:
    """Photos of 33 classes, so that their publication takes long enough for a kill in between."""
    for label in CLASSES:
        for number in range(10):
            shutil.copytree(photos / label, photos / f"{label} {number}", copy_function=os.link)
    return photos


@pytest.mark.parametrize("after", ["the first file", "some files", "the quarantine", "the images"])
def test_a_killed_run_leaves_all_classes_at_their_old_or_all_at_their_new_version(
    many_classes: Path, store: str, after: str
) -> None:
    labels = sorted(path.name for path in many_classes.iterdir())
    ingest_alone(many_classes, store)
    before = assert_consistent(store, RAW_IMAGES)
    assert list(before) == labels
    for label in labels:
        (many_classes / label / "0_100.jpg").unlink()
    (many_classes / labels[0] / "bad.jpg").write_text("no photo")
    written = data_files(store, RAW_IMAGES)
    committed = {table: commits(store, table) for table in (RAW_IMAGES, QUARANTINED_IMAGES)}
    moments: dict[str, Callable[[], bool]] = {
        "the first file": lambda: len(data_files(store, RAW_IMAGES) - written) >= 1,
        "some files": lambda: len(data_files(store, RAW_IMAGES) - written) >= 15,
        "the quarantine": lambda: commits(store, QUARANTINED_IMAGES) > committed[QUARANTINED_IMAGES],
        "the images": lambda: commits(store, RAW_IMAGES) > committed[RAW_IMAGES],
    }
    with running("loop", many_classes, store) as process:
        wait_for(moments[after], pause=0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    images = assert_consistent(store, RAW_IMAGES)
    assert list(images) == labels
    assert {version.rows for version in images.values()} in ({7}, {8})
    assert images == before or all(version.rows == 7 for version in images.values())
    bad = table(store, QUARANTINED_IMAGES, [labels[0]])
    # The quarantine is committed first, so no photo is missing from both tables.
    assert images == before or list(bad["path"]) == [f"{labels[0]}/bad.jpg"]


def ingest_alone(photos: Path, store: str) -> None:
    """Ingests all photos once, without Spark."""
    program = RUN.replace("while True:", "for _ in range(1):")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", program, "loop", str(photos), store], env=environment, check=True)


@pytest.mark.parametrize("name", [RAW_IMAGES, MOBILENET_FEATURES])
def test_after_a_kill_the_next_run_succeeds_and_a_sweep_removes_the_rest(
    spark: SparkSession, photos: Path, store: str, extractor: Path, name: str
) -> None:
    publish_extractor(store, extractor)
    with running("spark", photos, store) as process:
        # Kills the second round when it has written a file of the table and has not published it.
        wait_for(lambda: len(current_versions(store, name)) == len(CLASSES), pause=0.005)
        written = data_files(store, name)
        wait_for(lambda: data_files(store, name) - written, pause=0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not processes_of(process.pid))
    for name_of_table in (RAW_IMAGES, MOBILENET_FEATURES):
        versions = assert_consistent(store, name_of_table)
        assert list(versions) == CLASSES
        assert {version.rows for version in versions.values()} == {8}
    assert ingest(spark, photos, store, CLASSES).failed == {}
    assert extract(spark, store, CLASSES).failed == {}
    assert data_files(store, name) - set(current_files(store, name))
    for lease in (Path(store) / "leases").iterdir():  # of the run that was killed
        os.utime(lease, (0, 0))
    with held_lease(open_root(store), "sweeping") as lease_of_the_sweep:
        sweep_table(open_root(store), name, timedelta(0), lease_of_the_sweep)
    assert_consistent(store, name)
    assert data_files(store, name) == set(current_files(store, name))


def test_ctrl_c_ends_a_run_and_leaves_the_store_unchanged(photos: Path, store: str) -> None:
    ingest_alone(photos, store)
    before = current_versions(store, RAW_IMAGES)
    for label in CLASSES:
        for number in range(3000):
            os.link(photos / label / "0_100.jpg", photos / label / f"more-{number}.jpg")
    written = data_files(store, RAW_IMAGES)
    with running("spark", photos, store) as process:
        wait_for(lambda: data_files(store, RAW_IMAGES) - written, pause=0.005)
        # A terminal also signals every process in the foreground, the JVM included.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode != 0
        assert errors.rstrip().endswith("KeyboardInterrupt")
        wait_for(lambda: not processes_of(process.pid))
    assert current_versions(store, RAW_IMAGES) == before
    assert_consistent(store, RAW_IMAGES)


def test_an_interrupted_stage_stops_its_tasks_and_keeps_the_session(
    spark: SparkSession, tmp_path: Path
) -> None:
    def write_beats(number: int) -> int:
        for _ in range(TIMEOUT_SECONDS * 10):
            Path(f"{tmp_path}/beat-{number}").write_text(str(time.time()))
            time.sleep(0.1)
        return number

    def beats() -> list[str]:
        return [path.read_text() for path in sorted(tmp_path.glob("beat-*"))]

    def interrupt() -> None:
        wait_for(lambda: len(beats()) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tasks.run_tasks(
            spark, "sleep", write_beats, work=[1, 2, 3, 4], images=lambda _: 1, report=lambda _: None
        )
    thread.join()
    wait_for(lambda: not spark.sparkContext.statusTracker().getActiveJobsIds())

    def tasks_are_silent() -> bool:
        last = beats()
        time.sleep(1)
        return beats() == last

    wait_for(tasks_are_silent)
    assert len(beats()) == 2
    added = tasks.run_tasks(
        spark, "add", lambda n: n + 1, work=[1, 2], images=lambda _: 1, report=lambda _: None
    )
    assert added == [2, 3]


@pytest.fixture(scope="module")
def finished_store(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store in which every job has run once."""
    store = str(tmp_path_factory.mktemp("finished_store") / "store")
    run_jobs(spark, sample_photos, store, extractor, CLASSES)
    ingest(spark, sample_photos, store, CLASSES)  # the table says now that it is free of metadata
    return store


def visible_files(store: str) -> dict[Path, tuple[int, bytes]]:
    """Each log entry, pointer and CSV: its inode, which a replacement changes, and its content."""
    folders = ("*/_delta_log/*", "*/current.json", "*/current/*", f"{PCA_FEATURES_CSV}/*")
    found = (path for folder in folders for path in Path(store).glob(folder))
    return {path: (path.stat().st_ino, path.read_bytes()) for path in found}


@pytest.mark.parametrize("job", [ingest, extract, fit, project], ids=lambda job: job.__name__)
def test_a_job_interrupted_after_its_tasks_leaves_the_store_unchanged(
    spark: SparkSession,
    sample_photos: Path,
    finished_store: str,
    job: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_: tasks.Progress) -> None:
        raise KeyboardInterrupt

    # The last report of progress comes when all files are written.
    monkeypatch.setattr("tests.jobs.quiet", interrupt)
    before = visible_files(finished_store)
    photos = [sample_photos] if job is ingest else []
    classes = [] if job is fit else [CLASSES]
    again = {} if job is fit else {"recompute": True}
    with pytest.raises(KeyboardInterrupt):
        job(spark, *photos, finished_store, *classes, **again)
    assert visible_files(finished_store) == before
    assert_consistent(finished_store, RAW_IMAGES)
    assert_consistent(finished_store, MOBILENET_FEATURES)


def test_two_concurrent_runs_leave_each_class_at_the_version_of_one_run(
    spark: SparkSession, photos: Path, store: str, tmp_path: Path
) -> None:
    fewer = shutil.copytree(photos, tmp_path / "fewer")
    for label in CLASSES:
        for number in (0, 1, 2):
            (fewer / label / f"{number}_100.jpg").unlink()
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            roots = [pool.submit(ingest, spark, root, store, CLASSES) for root in (photos, fewer)]
            by_rows = {8: roots[0].result().classes, 5: roots[1].result().classes}
        versions = assert_consistent(store, RAW_IMAGES)
        for label, version in versions.items():
            assert version.data_version == by_rows[version.rows][label].data_version
        assert len(table(store, RAW_IMAGES)) == sum(version.rows for version in versions.values())


def test_readers_see_a_class_either_before_or_after_its_replacement(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    finished = threading.Event()

    def read() -> set[int]:
        seen = set()
        while not finished.is_set():
            seen |= {version.rows for version in assert_consistent(store, RAW_IMAGES).values()}
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(4):
            for label in CLASSES:
                (photos / label / f"{number}_100.jpg").unlink()
            ingest(spark, photos, store, CLASSES)
        finished.set()
        assert reader.result() <= {4, 5, 6, 7, 8}
        assert len(reader.result()) > 1
