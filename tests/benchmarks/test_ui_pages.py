"""The benchmark's queries are those of the pages of the installed Dagster, and an error of a page is seen."""

from collections.abc import Iterator

import pytest

from benchmarks.faults.ui_pages import Query, load, pages
from rehearsal.processes import reserved_ports
from tests.dagster_ui import DagsterUi, dagster_ui
from tests.shell import Shell


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterUi]:
    shell = Shell(tmp_path_factory.mktemp("ui"))
    with reserved_ports(1) as [port], dagster_ui(shell.environment, port, shell.home, daemon=False) as served:
        yield served


def test_dagster_answers_each_page(ui: DagsterUi) -> None:
    asked = pages(ui, asset="raw_images", label="Kiwi", run="none")
    assert {name for queries in asked.values() for name, _ in queries} >= {
        "AssetGraphLiveQuery",
        "RunRootQuery",
    }
    for queries in asked.values():
        loaded = load(ui, queries)
        assert loaded.errors == []
        assert loaded.megabytes > 0


def test_an_error_of_a_page_is_told(ui: DagsterUi) -> None:
    [wrong] = load(ui, [Query("AssetViewDefinitionQuery", {"assetKey": 5})]).errors
    assert "AssetKeyInput" in wrong
