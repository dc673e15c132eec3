"""JSON between Dagster and the nodes of a cluster, which may write any JSON."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from spark_jobs.ingest_images import ClassIngest, IngestParams, IngestReport
from spark_jobs.photos.limits import Limits
from spark_jobs.store.photos import Photo
from spark_jobs.wire import Measured, from_json, to_json

FIGURES = ClassIngest(
    images=1, bytes=2, data_version="a", new=1, kept=0, gone=0, written_bytes=2, found=1, quarantined=0
)
REPORT = IngestReport(classes={"Kiwi": FIGURES}, failed={"Lemon": "no photos"})
PARAMS = IngestParams(
    images="/photos",
    store="/store",
    version="run",
    photos={"Kiwi": [Photo("Kiwi/1.jpg", 10, 20, "etag")]},
    max_bytes=1,
    max_pixels=2,
    max_bad_share=0.1,
    keep_hours=24,
    limits=Limits(1.5, 2),
)


@pytest.mark.parametrize("value", [REPORT, PARAMS, Measured(1.5, "app-1", {"spark": "3.5"})])
def test_parameters_and_reports_come_back_as_they_were(value: Any) -> None:
    assert from_json(type(value), to_json(value)) == value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"found": "many"}, r"IngestReport.classes\['Kiwi'\].found is 'many', which is no int"),
        ({"found": True}, "found is 'True', which is no int"),
        ({"found": 1.0}, "found is '1.0', which is no int"),
        ({"found": None}, "found is 'None', which is no int"),
        ({"preview_jpeg_base64": ["x"]}, "preview_jpeg_base64 is .* which is no str"),
        ({"without_photos": 1}, "without_photos is '1', which is no bool"),
        ({"data_version": {"a": 1}}, "data_version is .* which is no str"),
        ({"colour": "red"}, "ClassIngest has no field 'colour'"),
    ],
)
def test_a_figure_of_another_type_is_refused_by_its_name(changes: dict[str, Any], words: str) -> None:
    content = json.dumps({"classes": {"Kiwi": asdict(FIGURES) | changes}, "failed": {}})
    with pytest.raises(TypeError, match=words):
        from_json(IngestReport, content.encode())


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"classes": [], "failed": {}}', '{"classes": {}, "failed": {"a": 1}}', "{}"]
)
def test_a_report_of_another_form_is_refused(content: str) -> None:
    with pytest.raises(TypeError):
        from_json(IngestReport, content.encode())


@pytest.mark.parametrize(
    "photo", [["Kiwi/1.jpg", "10", 20], ["Kiwi/1.jpg", 10], ["a", 1, 2, "", 3], "Kiwi", ["a", 1, True]]
)
def test_the_fields_of_a_photo_are_checked_too(photo: Any) -> None:
    value = json.loads(to_json(PARAMS))
    value["photos"]["Kiwi"] = [photo]
    with pytest.raises(TypeError, match=r"photos|Photo"):
        from_json(IngestParams, json.dumps(value).encode())


def test_a_whole_number_is_a_float_and_true_is_none() -> None:
    written = {"application": "app-1", "versions": {}}
    assert from_json(Measured, json.dumps({"seconds": 2, **written}).encode()).seconds == 2
    with pytest.raises(TypeError, match="seconds is 'True', which is no float"):
        from_json(Measured, json.dumps({"seconds": True, **written}).encode())
