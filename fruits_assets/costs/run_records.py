"""What each stage of each run did, as one small JSON object a stage: what runs are compared by."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, get_args, get_origin, get_type_hints

from spark_jobs.store.root import Root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES

RUN_RECORDS = "run_records"

# The stages that leave records, in the order of the pipeline.
STAGES = (RAW_IMAGES, MOBILENET_FEATURES, PCA_MODEL, PCA_FEATURES_CSV)

# Above every number of a record that can be: what is computed from smaller ones stays finite.
MAX_NUMBER = 1e15

# What FRUITS_ENV can be.
ENVIRONMENTS = ("local", "emr")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One stage of one Dagster run.

    `root_run` is the run that this one repeats, whole or from where it failed, else itself. `owner` is what
    the run is part of: a `fruits run` or a backfill, of which there may be several runs, else its root run.
    `finished` is a time in ISO 8601 with its zone, `bytes` what the stage wrote to the store, `seconds` the
    time of the job alone, `cost_usd` what the cluster's nodes cost in the whole step, `known_classes` how
    many classes there were in all, and `versions` those of the job's driver. None stands where nobody
    knows: a machine of one's own has no price.
    """

    run: str
    root_run: str
    owner: str
    stage: str
    environment: str
    finished: str
    engine: str
    images: int
    classes: int
    known_classes: int
    bytes: int
    seconds: float
    nodes: int | None = None
    cores: int | None = None
    instance_type: str | None = None
    cost_usd: float | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


def record_path(run: str, stage: str) -> str:
    return f"{RUN_RECORDS}/{run}/{stage}.json"


def write_record(store: Root, record: RunRecord) -> None:
    """Puts a record whole; another attempt of the same run at the same stage replaces it."""
    content = asdict(record) | {"images_per_second": round(record.images_per_second, 2)}
    store.write(record_path(record.run, record.stage), json.dumps(content, ensure_ascii=False).encode())


def read_records(store: Root) -> tuple[list[RunRecord], list[str]]:
    """All records, the oldest first, and the paths of those that are none."""
    paths = sorted(info.path for info in store.list(RUN_RECORDS) if info.path.endswith(".json"))
    records, bad = [], []
    for path, content in zip(paths, store.read_many(paths), strict=True):
        try:
            records.append(parse_record(content))
        except ValueError:
            bad.append(path)
    return sorted(records, key=lambda record: datetime.fromisoformat(record.finished)), bad


def parse_record(content: bytes) -> RunRecord:
    """A record from its JSON, in which fields of a later version are passed over.

    Raises `ValueError` for what is no record: no JSON, a field missing or of another type, text that is not
    one line of characters, an unknown stage, a number that cannot be, a time without its zone.
    """
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("a record is a JSON object")
    kinds = get_type_hints(RunRecord)
    known: dict[str, Any] = {one.name: found[one.name] for one in fields(RunRecord) if one.name in found}
    for name, value in known.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{name} is {value!r}")
    try:
        record = RunRecord(**known)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if record.stage not in STAGES or record.environment not in ENVIRONMENTS:
        raise ValueError(f"{record.stage!r} on {record.environment!r} is no stage of a run")
    numbers = (record.images, record.classes, record.known_classes, record.bytes, record.seconds)
    counts = (record.cores, record.nodes)
    if not all(0 <= number < MAX_NUMBER for number in (*numbers, record.cost_usd or 0)) or not all(
        count is None or 0 < count < MAX_NUMBER for count in counts
    ):
        raise ValueError("a number is not one that can be")
    if datetime.fromisoformat(record.finished).tzinfo is None:
        raise ValueError(f"finished is {record.finished!r}, without a time zone")
    return record


def _is(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of one of the types that a field of `RunRecord` has."""
    if get_origin(kind) is dict:
        return isinstance(value, Mapping) and all(_is(text, str) for text in (*value, *value.values()))
    allowed = get_args(kind) or (kind,)
    if isinstance(value, str) and not value.isprintable():
        return False
    if float in allowed and type(value) is int:
        return True
    return type(value) in allowed
