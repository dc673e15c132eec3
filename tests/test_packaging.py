"""The wheel, and an environment outside the repository in which it is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support import REPOSITORY

UV = str(Path(sys.executable).with_name("uv"))
CLASSES = {"Banana", "Kiwi"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout. setuptools writes into the folder that it builds, so it builds a copy."""
    folder = tmp_path_factory.mktemp("wheel")
    hidden_or_built = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    source = shutil.copytree(REPOSITORY, folder / "source", ignore=hidden_or_built)
    run(UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, str(source))
    [wheel] = (source / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment, which has the wheel and takes its dependencies from this one."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(UV, "venv", "--python", sys.executable, str(environment))
    run(UV, "pip", "install", "--offline", "--no-deps", "--python", str(environment), str(wheel))
    [packages] = environment.glob("lib/python*/site-packages")
    # Python does not read the .pth files of a folder that a .pth file names: the editable install stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def run(*command: str, **variables: str) -> str:
    """The output of a command that does not see the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_contains_the_product_and_no_tool_of_developers(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    packages = {folder for folder in folders if not folder.endswith(".dist-info")}
    assert packages == {"fruits_assets", "resources", "spark_jobs", "emr_bootstrap"}
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE"}


def test_the_wheel_contains_the_data_files_of_its_packages(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert set(names) >= {
        "emr_bootstrap/bootstrap.sh",
        "emr_bootstrap/requirements.lock",
        "emr_bootstrap/template.yaml",
        "fruits_assets/model/MODEL_CARD.md",
        "fruits_assets/model/embedded.npz",
        "fruits_assets/report/page.css",
        "fruits_assets/report/page.html.jinja",
        "fruits_assets/report/page.js",
        "fruits_assets/sample_photos/LICENSE",
        "resources/local/jars.sha256",
        "resources/local/log4j2.properties",
        "resources/prices.toml",
    }
    photos = [name for name in names if name.startswith("fruits_assets/sample_photos/")]
    assert len(photos) == 8 * 20 + len(["LICENSE"])


def test_an_installed_wheel_runs_the_pipeline_on_sample_photos(bin_folder: Path, tmp_path: Path) -> None:
    python, fruits = str(bin_folder / "python"), str(bin_folder / "fruits")
    imported = run(python, "-c", "import spark_jobs; print(spark_jobs.__file__)")
    assert imported.startswith(str(bin_folder.parent))
    run(fruits, "samples", "photos", "--images", "10")
    for folder in (tmp_path / "photos").iterdir():
        if folder.name not in CLASSES:
            shutil.rmtree(folder)
    (tmp_path / "dagster").mkdir()
    run(
        fruits,
        "run",
        DAGSTER_HOME=str(tmp_path / "dagster"),
        FRUITS_IMAGES="photos",
        FRUITS_STORE="store",
        FRUITS_WEIGHTS="embedded",
        PYSPARK_PYTHON=python,
    )
    assert len(list((tmp_path / "store" / "pca_features_csv").rglob("*.csv"))) == len(CLASSES)


def test_an_installed_wheel_shows_the_help_of_emr_deploy(bin_folder: Path) -> None:
    assert "Usage: fruits emr deploy" in run(str(bin_folder / "fruits"), "emr", "deploy", "--help")
