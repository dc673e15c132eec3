"""Commands as a user types them in the root of the repository, each in its own process."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import click
import dagster as dg
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from benchmarks.photo_sets import variant
from fruits_assets.terminal import Command
from resources.local.java import java
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from spark_jobs.store.versions import Version
from tests.shell import BY_CLASS, IMAGES, PATIENCE, Shell
from tests.support import REPOSITORY, WEIGHTS, json_at, wait_for


def replaced(
    before: Mapping[str, Mapping[str, Version]], after: Mapping[str, Mapping[str, Version]]
) -> list[str]:
    """The classes whose pointers differ; they are the same in every table by class."""
    by_table = [
        [label for label, pointer in after[table].items() if pointer != before[table].get(label)]
        for table in BY_CLASS
    ]
    assert by_table == by_table[:1] * len(BY_CLASS)
    return by_table[0]


def mirrored(photo: Path) -> Image.Image:
    return ImageOps.mirror(Image.open(photo))


def test_the_first_run_writes_one_csv_a_class_and_a_summary(first_run: tuple[Path, str]) -> None:
    folder, output = first_run
    shell = Shell(folder)
    labels = sorted(path.name for path in shell.photos.iterdir())
    files = sorted(path.stem for path in (shell.store / PCA_FEATURES_CSV).glob("*.csv"))
    assert files == labels
    for label in labels:
        rows = shell.csv(label)
        assert list(rows[0]) == ["path", "label", *(f"pc{number}" for number in range(1, 16))]
        photos = sorted(path.name for path in (shell.photos / label).iterdir())
        assert len(photos) == IMAGES
        assert [row["path"] for row in rows] == [f"{label}/{photo}" for photo in photos]
        assert {row["label"] for row in rows} == {label}
        assert all(abs(float(row["pc15"])) < 1e6 for row in rows)
    images = IMAGES * len(labels)
    summary = output[output.rindex("classes  ") :]
    assert f"{len(labels)} done" in summary
    assert f"{images} rows in {len(labels)} files in {shell.store}/pca_features_csv" in summary
    assert "15 components keep" in summary
    assert "`make ui` opens Dagster's UI on http://127.0.0.1:3000" in summary
    assert output.splitlines()[0] == (
        f"Photos {shell.photos}, store {shell.store}, weights {WEIGHTS}, environment local"
    )
    assert f"{images} of {images} images" in output  # progress
    assert output.count(f"Spark runs on {java().described}") == 1
    assert "Traceback" not in output


def test_option_class_replaces_the_named_classes_and_keeps_the_model(shell: Shell) -> None:
    before, model = shell.pointers(), shell.model()
    output = shell.run("fruits", "run", "--all", "--class", "Apple Red 1", "--class", "Kiwi", "--json")
    summary = json.loads(output.splitlines()[-1])
    assert (summary["classes_done"], summary["failed_classes"], summary["images"]) == (2, {}, 2 * IMAGES)
    assert (summary["csv_rows"], summary["components"]) == (2 * IMAGES, 15)
    assert replaced(before, shell.pointers()) == ["Apple Red 1", "Kiwi"]
    assert shell.model() == model
    assert model
    assert f"in {shell.store}/{model.directory}" in output


def test_a_class_of_bad_photos_fails_and_the_other_classes_finish(shell: Shell) -> None:
    before, model = shell.pointers(), shell.model()
    (shell.photos / "Kiwi" / "0_100.jpg").write_bytes(b"no picture")
    output = shell.run("fruits", "run", "--all", "--refit", exits=1)
    after = shell.pointers()
    assert after[RAW_IMAGES]["Kiwi"] == before[RAW_IMAGES]["Kiwi"]
    assert all(
        after[RAW_IMAGES][label] != before[RAW_IMAGES][label]
        for label in after[RAW_IMAGES]
        if label != "Kiwi"
    )
    assert shell.model() != model
    assert "1 failed" in output
    assert f"failed  Kiwi: 1 of {IMAGES} photos are bad" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "command",
    [
        ("dagster", "asset", "materialize", "-m", "fruits_assets.definitions", "--select"),
        ("dg", "launch", "--assets"),
    ],
    ids=" ".join,
)
def test_dagsters_own_commands_replace_only_the_named_class(shell: Shell, command: tuple[str, ...]) -> None:
    before, model = shell.pointers(), shell.model()
    for label in ("Kiwi", "Lemon"):
        mirrored(shell.photos / label / "0_100.jpg").save(shell.photos / label / "new.png")
    output = shell.run(*command, ",".join(BY_CLASS), "--partition", "Kiwi")
    assert replaced(before, shell.pointers()) == ["Kiwi"]
    assert shell.model() == model
    assert model
    assert model.directory in output


def test_dagsters_own_command_runs_a_range_and_the_model_in_one_run(shell: Shell) -> None:
    before, model = shell.pointers(), shell.model()
    mirrored(shell.photos / "Kiwi" / "0_100.jpg").save(shell.photos / "Kiwi" / "new.png")
    everything = "Apple Red 1...Strawberry"
    output = shell.run(
        "dagster",
        "asset",
        "materialize",
        "-m",
        "fruits_assets.definitions",
        "--select",
        "raw_images*",
        "--partition-range",
        everything,
    )
    after = shell.pointers()
    assert after[RAW_IMAGES] == before[RAW_IMAGES] | {"Kiwi": after[RAW_IMAGES]["Kiwi"]}
    assert shell.model() != model
    csvs = after[PCA_FEATURES_CSV]
    assert [label for label in csvs if csvs[label] != before[PCA_FEATURES_CSV][label]] == sorted(csvs)
    assert output.count("RUN_SUCCESS") == 1


def test_an_unusable_run_is_refused_with_a_sentence_and_writes_nothing(tmp_path: Path) -> None:
    """All commands run at the same time, because Python's start takes most of the time."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "photo.jpg").write_bytes(b"in no folder")
    (tmp_path / "good" / "Kiwi").mkdir(parents=True)
    (tmp_path / "good" / "Kiwi" / "photo.jpg").write_bytes(b"in a folder")
    kiwi = {"FRUITS_IMAGES": str(tmp_path / "good")}
    refusals: list[tuple[list[str], dict[str, str], str]] = [
        ([], {"FRUITS_IMAGES": str(tmp_path / "missing")}, "missing does not exist"),
        ([], {"FRUITS_IMAGES": str(tmp_path / "empty")}, "holds no photo in a class folder"),
        ([], {"FRUITS_IMAGES": str(tmp_path / "loose")}, "holds no photo in a class folder"),
        ([], {"FRUITS_IMAGES": ""}, "FRUITS_IMAGES is not set"),
        ([], {**kiwi, "FRUITS_SPARK_CORES": "two"}, "FRUITS_SPARK_CORES=two"),
        (["--class", "Kiwy"], kiwi, "There is no class 'Kiwy', neither under FRUITS_IMAGES="),
        (["--class", "Kiwi"], kiwi, "Single classes need a PCA model"),
        (["--class", "Kiwi", "--components", "3"], kiwi, "--class never does"),
    ]
    started = []
    for number, (options, changed, sentence) in enumerate(refusals):
        folder = tmp_path / str(number)
        folder.mkdir()
        shell = Shell(folder)
        # The folder has no .env, so only the environment has settings.
        started.append((shell, shell.start("fruits", "run", *options, cwd=folder, **changed), sentence))
    for shell, process, sentence in started:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode not in (0, None)
        # The last line, after the log of the observation.
        assert sentence in output.strip().splitlines()[-1]
        assert "Traceback" not in output
        assert not shell.store.exists()


def test_the_help_lists_the_commands_within_the_width_of_the_terminal(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for columns in ("60", "140"):
        shell.environment["COLUMNS"] = columns
        output = shell.run("fruits", "--help")
        assert "run " in output and "samples " in output
        assert max(map(len, output.splitlines())) <= int(columns)
        description = shell.run("fruits", "run", "--help")
        assert max(map(len, description.splitlines())) <= int(columns)


def test_the_version_is_the_version_of_the_package(tmp_path: Path) -> None:
    assert Shell(tmp_path).run("fruits", "--version") == f"fruits {version('fruits-platform')}\n"


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert "complete -o nosort -F _fruits_completion fruits" in complete(shell, "bash_source", "")
    assert complete(shell, "bash_complete", "fruits pl") == "plain,plan\n"
    assert "plain,--json\n" in complete(shell, "bash_complete", "fruits plan --")


def complete(shell: Shell, instruction: str, words: str) -> str:
    """The answer to a shell's request for completions of the last word."""
    shell.environment |= {"_FRUITS_COMPLETE": instruction, "COMP_WORDS": words}
    shell.environment["COMP_CWORD"] = str(len(words.split()) - 1)
    return shell.run("fruits")


def test_the_plan_as_json_is_all_of_stdout(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    record = shell.store / "run_records" / "broken" / "raw_images.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    command = ["fruits", "plan", "--images", "1000", "--nodes", "2", "--json"]
    result = subprocess.run(command, env=shell.environment, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout)
    assert (figures["images"], figures["nodes"], figures["cores"]) == (1000, 2, 8)
    assert figures["total_seconds"] == figures["start_seconds"] + sum(figures["seconds"].values())
    assert figures["rates"]["pca_model"]["source"] == "shipped"
    assert "broken/raw_images.json" in result.stderr


@pytest.mark.parametrize("columns", [60, 100])
def test_a_plan_on_a_terminal_wraps_between_words(tmp_path: Path, columns: int) -> None:
    shell = Shell(tmp_path)
    shell.environment["COLUMNS"] = str(columns)
    terminal, end = pty.openpty()
    command = ["fruits", "plan", "--images", "1000", "--nodes", "2"]
    with subprocess.Popen(command, env=shell.environment, stdout=end, stderr=end):
        os.close(end)
        output = ""
        with suppress(OSError):  # EIO at the end of the output
            while read := os.read(terminal, 4096):
                output += read.decode()
    os.close(terminal)
    lines = output.splitlines()
    assert len(lines) > 12 and max(map(len, lines)) <= columns
    assert "Assumptions:" in lines


@pytest.mark.parametrize("interrupted", [False, True])
def test_ctrl_c_at_a_prompt_gives_status_130_and_a_refusal_1(interrupted: bool) -> None:
    @click.command(cls=Command)
    def ask() -> None:
        try:  # as click's prompt does
            raise KeyboardInterrupt if interrupted else EOFError
        except (KeyboardInterrupt, EOFError):
            raise click.Abort from None

    assert CliRunner().invoke(ask).exit_code == (130 if interrupted else 1)


def test_ctrl_c_ends_a_run_and_its_processes_and_no_class_is_half_written(shell: Shell) -> None:
    before, model = shell.pointers(), shell.model()
    # With so many photos, feature extraction still runs when it reports its first progress.
    for folder in shell.photos.iterdir():
        photo = next(folder.iterdir())
        for number in range(1, 300):
            (folder / f"variant_{number}.jpg").write_bytes(variant(photo, number))
    process = shell.start("fruits", "run")
    assert process.stdout
    for line in process.stdout:
        if f"{MOBILENET_FEATURES}: " in line and " left" in line:
            break
    # A terminal sends the signal to all of its processes.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.splitlines()[-1].startswith("fruits run: interrupted.")
    wait_for(lambda: not processes_of(process.pid), 15)
    after = shell.pointers()
    assert after[MOBILENET_FEATURES] == before[MOBILENET_FEATURES]
    assert after[PCA_FEATURES_CSV] == before[PCA_FEATURES_CSV]
    assert shell.model() == model


def processes_of(session: int) -> list[str]:
    """The command lines of the processes of a session, including Java."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The fields after the name of the command are state, parent, group, session (man 5 proc).
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def use_scratch_folder_of_another_process(temporary: Path) -> None:
    program = "from resources.scratch import use_scratch_folder; use_scratch_folder()"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_history_names_each_spark_job_by_asset_classes_and_images(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, port: int, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(shell.home))
    with dg.DagsterInstance.get() as instance:
        [record] = instance.fetch_materializations(dg.AssetKey(PCA_MODEL), limit=1).records
        assert record.asset_materialization is not None
        link = str(record.asset_materialization.metadata["spark_history"].value)
    server = shell.start("fruits", "history", "--port", str(port), FRUITS_IMAGES="", TMPDIR=str(temporary))
    try:
        api = f"http://127.0.0.1:{port}/api/v1/applications"
        [application] = wait_for(lambda: json_at(api))
        assert application["name"] == "fruits"
        assert application["attempts"][0]["completed"]
        jobs, stages = (json_at(f"{api}/{application['id']}/{kind}") for kind in ("jobs", "stages"))
        assert link.startswith("http://127.0.0.1:18080/")
        with urllib.request.urlopen(link.replace(":18080/", f":{port}/"), timeout=PATIENCE) as page:
            assert f"<title>{application['name']} - Spark Jobs</title>" in page.read().decode()
        use_scratch_folder_of_another_process(temporary)
        [scratch] = temporary.iterdir()  # that of the server, although its program is another now
        assert list(scratch.glob("spark-*"))
        listening = [c for c in psutil.net_connections() if c.laddr and c.laddr.port == port]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        output, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 130, output
    use_scratch_folder_of_another_process(temporary)
    assert list(temporary.iterdir()) == []
    classes = len(list(shell.photos.iterdir()))
    images = classes * IMAGES
    names = {
        f"raw_images: ingest, {classes} classes, {images} images",
        f"mobilenet_features: extract, {classes} classes, {images} images",
        f"pca_model: fit, {classes} classes, {images} images",
        f"pca_features_csv: project, {classes} classes, {images} images",
    }
    assert {job["description"] for job in jobs} == {stage["description"] for stage in stages} == names
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening if c.status == "LISTEN"} == {"127.0.0.1"}


def test_history_refuses_an_unusable_port_or_store_with_a_sentence(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output = shell.run("fruits", "history", "--port", port, exits=1)
        assert f"fruits history: The port {port} can't be used" in output
    assert "--port" in shell.run("fruits", "history", "--port", "99999", exits=2)
    shutil.rmtree(shell.store / "spark-events")
    assert "no event logs in" in shell.run("fruits", "history", exits=1)
    (shell.store / "spark-events").write_text("no folder")
    assert f"FRUITS_STORE={shell.store} can't be read" in shell.run("fruits", "history", exits=1)


def test_status_tells_changes_and_failures_and_computes_nothing(shell: Shell) -> None:
    assert "photos  nothing has changed" in shell.run("fruits", "status")
    before = shell.pointers()
    (shell.photos / "Kiwi" / "0_100.jpg").write_bytes(b"no picture")
    (shell.photos / "Lemon" / "new.jpg").write_bytes(variant(shell.photos / "Lemon" / "0_100.jpg", 3))
    status = json.loads(shell.run("fruits", "status", "--json"))
    changes = dict(status["changes"])
    assert changes["photos"] == "1 new, 1 changed in 2 classes"
    assert changes["would take"].startswith("about ")
    assert shell.pointers() == before
    shell.run("fruits", "run", exits=1)
    output = shell.run("fruits", "status", exits=1)
    assert f"failed  Kiwi: 1 of {IMAGES} photos are bad" in output
    assert "model  1 image and 0 classes have come since it was fitted" in output


def test_observe_registers_new_classes(shell: Shell) -> None:
    shutil.copytree(shell.photos / "Kiwi", shell.photos / "Durian")
    assert "New partitions: 1" in shell.run("fruits", "observe")
    assert "New partitions: 0" in shell.run("fruits", "observe")


def test_a_killed_run_of_dagsters_own_command_is_ended_by_the_next_command(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = shell.start(
        *("dagster", "asset", "materialize", "-m", "fruits_assets.definitions"),
        *("--select", "raw_images", "--partition", "Kiwi"),
    )
    running = shell.home / "running"
    wait_for(lambda: running.is_dir() and bool(list(running.glob("[!.]*"))), PATIENCE)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    monkeypatch.setenv("DAGSTER_HOME", str(shell.home))
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        shell.run("fruits", "observe")
        [run] = instance.get_runs(dg.RunsFilter(run_ids=[run.run_id]))
        assert run.status == dg.DagsterRunStatus.FAILURE
    assert list(running.iterdir()) == []
