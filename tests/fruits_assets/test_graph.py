"""The asset graph as Dagster shows it, and what importing it costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetNode

from fruits_assets.definitions import definitions_for, defs
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from tests.support import REPOSITORY

SNAPSHOT = Path(__file__).with_name("asset_graph.json")
RENEW = "RENEW_ASSET_GRAPH"


@pytest.fixture
def definitions() -> dg.Definitions:
    return definitions_for(Settings(images="/photos", store="/store", _env_file=None))


def _kinds(node: AssetNode) -> dict[str, bool]:
    return {"observed": node.is_observable, "materialized": node.is_materializable, "told": True}


def _sources(node: AssetNode) -> list[str]:
    """The files to which Dagster's UI links, relative to the repository. They exist."""
    references = node.metadata["dagster/code_references"].code_references
    return [str(Path(source.file_path).resolve(strict=True).relative_to(REPOSITORY)) for source in references]


def asset_graph(definitions: dg.Definitions) -> dict[str, dict[str, object]]:
    """Every asset by its key, with what a change of would surprise somebody."""
    graph: dict[str, dict[str, object]] = {}
    for node in definitions.resolve_asset_graph().asset_nodes:
        schema = node.metadata.get("dagster/column_schema")
        graph[node.key.to_user_string()] = {
            "is": next(word for word, true in _kinds(node).items() if true),
            "depends on": sorted(key.to_user_string() for key in node.parent_keys),
            "partitions": str(node.partitions_def) if node.partitions_def else None,
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "tags": {name: value for name, value in sorted(node.tags.items()) if "/kind/" not in name},
            "place": node.metadata["dagster/uri"],
            "source": _sources(node),
            "code version": node.code_version,
            "backfill": node.backfill_policy.policy_type.value if node.backfill_policy else None,
            "checks": sorted(key.name for key in node.check_keys),
            "columns": {column.name: column.type for column in schema.columns} if schema else None,
        }
    return dict(sorted(graph.items()))


def test_the_asset_graph_is_the_one_on_record(definitions: dg.Definitions) -> None:
    found = asset_graph(definitions)
    if os.environ.get(RENEW):
        SNAPSHOT.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(SNAPSHOT.read_text()), (
        f"The asset graph is not the one in {SNAPSHOT}. If it is meant to be: {RENEW}=1 pytest {__file__}"
    )


def test_every_asset_and_every_check_has_a_description(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for node in graph.asset_nodes:
        assert node.description, node.key
    for key in graph.asset_check_keys:
        assert graph.get_check_spec(key).description, key


def test_every_check_is_unpartitioned_and_most_come_with_the_materialization(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    assert all(graph.get(key).partitions_def is None for key in graph.asset_check_keys)
    job = definitions.resolve_implicit_global_asset_job_def()
    steps = {node.name for node in job.nodes}
    materialized = {node.key.to_user_string() for node in graph.asset_nodes if node.is_materializable}
    assert steps - materialized == {"fruit_photos", "store_checks"}


def test_runs_stay_in_one_process(definitions: dg.Definitions) -> None:
    assert definitions.resolve_implicit_global_asset_job_def().executor_def is dg.in_process_executor


def test_definitions_without_photos_say_which_variable_to_set() -> None:
    with pytest.raises(
        FruitsError, match=r"^FRUITS_IMAGES is not set\. .*one folder a class.*\.env\.example"
    ):
        defs()


def imported(statements: str) -> set[str]:
    """The top-level packages in memory after some statements, in a process of their own."""
    script = f"{statements}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, "FRUITS_IMAGES": "/photos"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_definitions_load_without_the_heavy_packages() -> None:
    heavy = {"tensorflow", "keras", "openvino", "pandas", "matplotlib", "boto3", "sklearn"}
    loaded = imported(
        "from fruits_assets.definitions import defs; defs().resolve_implicit_global_asset_job_def()"
    )
    assert "dagster" in loaded
    assert not heavy & loaded


def test_the_help_of_the_command_line_imports_neither_dagster_nor_spark() -> None:
    run_help = "from fruits_assets.cli import main; main(['run', '--help'], standalone_mode=False)"
    loaded = imported(f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): {run_help}")
    assert "click" in loaded
    assert not {"dagster", "pyspark", "pyarrow", "numpy", "PIL"} & loaded
