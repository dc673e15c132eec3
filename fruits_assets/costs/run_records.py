"""Run records: one small JSON file in the store for each stage of each run, to compare runs by."""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config

from spark_jobs.store.root import Root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES

RUN_RECORDS = "run_records"

# The stages that write records, in the order of the pipeline.
STAGES = (RAW_IMAGES, MOBILENET_FEATURES, PCA_MODEL, PCA_FEATURES_CSV)

# No count of bytes or images, and no number of seconds or USD, reaches this bound. Below it, all figures that
# are computed from a record are finite.
MAX_NUMBER = 1e15


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("the text contains a line break or another control character")
    return text


def _stage(name: str) -> str:
    if name not in STAGES:
        raise ValueError(f"the stage is not one of {', '.join(STAGES)}")
    return name


def _time_with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("the time has no time zone")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, lt=MAX_NUMBER)]
PositiveCount = Annotated[int, Field(gt=0, lt=MAX_NUMBER)]
Amount = Annotated[float, Field(ge=0, lt=MAX_NUMBER)]


@with_config(ConfigDict(strict=True, allow_inf_nan=False))
@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One stage of one Dagster run.

    - `root_run`: the run that this run repeats, as a whole or from its failed step; else the run itself.
    - `owner`: the `fruits run` or the backfill that the run belongs to; else its root run. An owner may have
      several runs.
    - `known_classes`: the number of registered classes. `images` and `classes` are those of this stage.
    - `bytes`: the bytes that the stage wrote to the store.
    - `finished`: a time in ISO 8601 with its zone.
    - `seconds`: the time of the job alone.
    - `cost_usd`: the price of the cluster's nodes during the whole step. A local machine has no price.
    - `versions`: the versions that the driver of the job reports.

    A value that is not known is None.
    """

    run: Text
    root_run: Text
    owner: Text
    stage: Annotated[str, AfterValidator(_stage)]
    environment: Literal["local", "emr"]
    finished: Annotated[str, AfterValidator(_time_with_zone)]
    engine: Text
    images: Count
    classes: Count
    known_classes: Count
    bytes: Count
    seconds: Amount
    nodes: PositiveCount | None = None
    cores: PositiveCount | None = None
    instance_type: Text | None = None
    cost_usd: Amount | None = None
    weights: Text | None = None
    weights_sha256: Text | None = None
    versions: dict[Text, Text] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


_RECORDS = TypeAdapter(RunRecord)


def record_path(run: str, stage: str) -> str:
    return f"{RUN_RECORDS}/{run}/{stage}.json"


def write_record(store: Root, record: RunRecord) -> None:
    """Writes a record in one operation. It replaces the record of an earlier attempt of the same stage."""
    content = asdict(record) | {"images_per_second": round(record.images_per_second, 2)}
    store.write(record_path(record.run, record.stage), json.dumps(content, ensure_ascii=False).encode())


def read_records(store: Root) -> tuple[list[RunRecord], list[str]]:
    """Returns all records, the oldest first, and the paths of the files that are not valid records."""
    paths = sorted(info.path for info in store.list(RUN_RECORDS) if info.path.endswith(".json"))
    records, invalid = [], []
    for path, content in store.read_present(paths).items():
        try:
            records.append(parse_record(content))
        except ValueError:
            invalid.append(path)
    return sorted(records, key=lambda record: datetime.fromisoformat(record.finished)), invalid


def parse_record(content: bytes) -> RunRecord:
    """Returns the record in a JSON file. It ignores unknown fields, which a later version may have written.

    Raises `ValueError` (pydantic's `ValidationError`) if the file is not JSON, if a field is missing, or if a
    value has another type or is out of its range.
    """
    return _RECORDS.validate_json(content)
