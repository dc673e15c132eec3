"""The documentation's words about reading the outputs: each example runs, on disk and on S3."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.fs as pafs
import pytest
from deltalake import DeltaTable
from duckdb_extensions import import_extension
from pyspark.sql import DataFrame, SparkSession

from fruits_assets.readers import list_files, read_arrow, read_pandas, spark_model
from spark_jobs.errors import FruitsError
from spark_jobs.store.pointers import pointer_path
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import SCHEMAS
from tests.docs.conftest import LABELS, NAMES
from tests.docs.pages import PYTHON, SQL, examples
from tests.support import REPOSITORY, current_files

TABLES = ("raw_images", "quarantined_images", "mobilenet_features")
COUNTS = dict.fromkeys(LABELS, len(NAMES))


def test_the_pages_have_examples_for_each_reader() -> None:
    text = "\n".join([*examples("python").values(), *examples("sql").values()])
    for reader in (
        "read_pandas",
        "read_delta",
        "to_pandas",
        "delta_scan",
        "spark.read.csv",
        "EXTERNAL TABLE",
    ):
        assert reader in text


@pytest.mark.parametrize("name", PYTHON)
def test_each_example_in_python_runs_on_a_store_on_disk(
    spark: SparkSession, store_of_real_names: str, name: str
) -> None:
    check_example(name, store_of_real_names, spark)


def check_example(name: str, store: str, spark: SparkSession | None = None) -> None:
    """Each table in a variable of the example has all rows of each class, under its true name."""
    program = PYTHON[name].replace("/data/store", store)
    if "polars" in program:
        found = in_own_process(f"{program}\n{LABELS_OF_TABLES}")
    else:
        variables: dict[str, Any] = {"spark": spark}
        exec(program, variables)
        found = [
            [row.label for row in rows.select("label").collect()]
            if isinstance(rows, DataFrame)
            else list(rows["label"])
            for rows in map(variables.get, TABLE_VARIABLES)
            if isinstance(rows, DataFrame | pd.DataFrame)
        ]
    for labels in found:
        assert Counter(label.removeprefix("'") for label in labels) == COUNTS


TABLE_VARIABLES = ("features", "images", "components", "csvs")
LABELS_OF_TABLES = f"""
import json
print(json.dumps([list(globals()[name]["label"]) for name in {TABLE_VARIABLES} if name in globals()]))
"""


def in_own_process(program: str) -> Any:
    """The JSON that a program prints.

    A thread of Polars calls C's getenv twice a second, and setenv in this process would crash it
    (https://github.com/rust-lang/rust/issues/27970).
    """
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", SQL)
def test_each_example_in_sql_runs_on_a_store_on_disk(store_of_real_names: str, name: str) -> None:
    import_extension("delta")  # instead of INSTALL, which downloads it
    statements = SQL[name].replace("/data/store", store_of_real_names).split(";")
    results = [duckdb.sql(text) for text in statements if text.strip() and "INSTALL" not in text]
    tables = [result.df() for result in results if result is not None]
    assert dict(zip(tables[0]["label"], tables[0]["images"], strict=True)) == COUNTS
    assert Counter(label.removeprefix("'") for label in tables[1]["label"]) == COUNTS


@pytest.mark.parametrize(
    "name", [name for name, block in PYTHON.items() if "spark." not in block and "glob" not in block]
)
def test_each_example_in_python_runs_on_a_store_on_s3(store_on_s3: str, name: str) -> None:
    check_example(name, store_on_s3)


SECRET = "CREATE SECRET (TYPE s3, PROVIDER credential_chain)"
SQL_ON_S3 = """
import json
import os
import duckdb
from duckdb_extensions import import_extension
for name in ("delta", "httpfs", "aws"):
    import_extension(name)
host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
server = f", ENDPOINT '{host}', URL_STYLE 'path', USE_SSL false)"
statements = [SECRET.removesuffix(")") + server, *(text for text in SQL.split(";") if "INSTALL" not in text)]
results = [duckdb.sql(text) for text in statements if text.strip()]
print(json.dumps([[row[:2] for row in result.fetchall()] for result in results if result is not None][-2:]))
"""


@pytest.mark.parametrize("name", SQL)
def test_each_example_in_sql_runs_on_a_store_on_s3(store_on_s3: str, name: str) -> None:
    assert SECRET in (REPOSITORY / "docs" / "outputs.md").read_text(encoding="utf-8")
    root = open_root(store_on_s3)
    # DuckDB takes what follows a `?` for parameters of the address, which the page says.
    legible = {label: count for label, count in COUNTS.items() if "?" not in label}
    root.copy_many((f"pca_features_csv/{label}.csv", f"legible/{label}.csv") for label in legible)
    sql = SQL[name].replace("/data/store/pca_features_csv", root.uri_of("legible"))
    sql = sql.replace("/data/store", root.uri)
    counts, rows = in_own_process(f"SECRET, SQL = {SECRET!r}, {sql!r}\n{SQL_ON_S3}")
    assert dict(counts) == COUNTS
    assert Counter(label.removeprefix("'") for _, label in rows) == legible


@pytest.mark.parametrize("output", [*TABLES, "pca_features_csv"])
def test_pandas_and_arrow_get_the_same_rows_with_labels_as_text(store: str, output: str) -> None:
    rows = read_pandas(store, output)
    assert read_arrow(store, output).num_rows == len(rows)
    expected = {"001": 1} if output == "quarantined_images" else COUNTS
    assert rows.groupby("label").size().to_dict() == expected
    assert set(rows["path"]) <= {f"{label}/{name}" for label in LABELS for name in [*NAMES, "bad.jpg"]}


def test_a_csv_and_the_features_join_by_path_and_label(store: str) -> None:
    components, features = (read_pandas(store, name) for name in ("pca_features_csv", "mobilenet_features"))
    assert len(components.merge(features, on=["path", "label"])) == len(features) == len(LABELS) * len(NAMES)


def test_classes_and_columns_can_be_chosen(store: str) -> None:
    for output in ("mobilenet_features", "pca_features_csv"):
        rows = read_pandas(store, output, classes=["None", "001"], columns=["label", "path"])
        assert list(rows.columns) == ["label", "path"]
        assert rows.groupby("label").size().to_dict() == {"001": len(NAMES), "None": len(NAMES)}


def test_a_table_can_be_read_at_an_earlier_version(store: str) -> None:
    rows = read_arrow(store, "mobilenet_features", classes=["NA"], version=1)
    assert rows.schema.names == SCHEMAS["mobilenet_features"].names
    assert rows.num_rows == len(NAMES)
    assert read_arrow(store, "mobilenet_features", version=0).num_rows == 0
    with pytest.raises(FruitsError, match=r"Version 99 of .* cannot be read .*FRUITS_KEEP_HOURS"):
        read_arrow(store, "mobilenet_features", version=99)


def test_the_files_of_a_table_are_its_current_files(store: str, store_of_real_names: str) -> None:
    files = list_files(store, "raw_images")
    expected = current_files(store_of_real_names, "raw_images")
    assert [file.removeprefix(store) for file in files] == [
        file.removeprefix(store_of_real_names) for file in expected
    ]


PAIRS_BY_POLARS = f"""
import json
import polars as pl
tables = {{table: pl.read_delta(f"STORE/{{table}}") for table in {TABLES}}}
print(json.dumps({{table: list(zip(rows["label"], rows["path"])) for table, rows in tables.items()}}))
"""


def test_readers_without_this_project_see_the_same_rows(store: str) -> None:
    by_polars = in_own_process(PAIRS_BY_POLARS.replace("STORE", store))
    for table in TABLES:
        rows, by_deltalake = read_pandas(store, table), DeltaTable(f"{store}/{table}").to_pandas()
        expected = sorted(zip(rows["label"], rows["path"], strict=True))
        assert sorted(zip(by_deltalake["label"], by_deltalake["path"], strict=True)) == expected
        assert sorted(map(tuple, by_polars[table])) == expected


def test_an_unknown_output_class_or_store_is_named_with_the_known_names(store: str) -> None:
    with pytest.raises(FruitsError, match=r"no output 'features'. The outputs are raw_images, "):
        read_arrow(store, "features")
    with pytest.raises(FruitsError, match=r"has no class 'Kiwi'. Its classes are: -5 Kiwi, 001, NA"):
        list_files(store, "raw_images", ["Kiwi"])
    with pytest.raises(FruitsError, match=r"nowhere does not exist. Name the value of FRUITS_STORE"):
        read_pandas(f"{store}/nowhere", "raw_images")
    with pytest.raises(FruitsError, match="has no pca_model yet"):
        spark_model(f"{store}/raw_images")


def test_a_damaged_class_is_named(store_of_real_names: str, tmp_path: Path) -> None:
    root: Root = open_root(str(tmp_path / "copy"))
    pafs.copy_files(store_of_real_names, root.uri)
    [file] = list_files(root.uri, "raw_images", ["NA"])
    os.truncate(file, 100)
    with pytest.raises(FruitsError, match=f"{file} cannot be read"):
        read_arrow(root.uri, "raw_images")
    assert read_arrow(root.uri, "raw_images", classes=["None"]).num_rows == len(NAMES)


def test_a_class_whose_pointer_is_damaged_is_not_left_out_without_a_word(
    store_of_real_names: str, tmp_path: Path
) -> None:
    root: Root = open_root(str(tmp_path / "copy"))
    pafs.copy_files(store_of_real_names, root.uri)
    pointer = root.uri_of(pointer_path("pca_features_csv", "NA"))
    os.truncate(pointer, 100)
    with pytest.raises(FruitsError, match=f"The pointer {pointer} is damaged"):
        read_arrow(root.uri, "pca_features_csv")
    assert read_arrow(root.uri, "pca_features_csv", classes=["None"]).num_rows == len(NAMES)
