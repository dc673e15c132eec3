"""Mutated files are accepted without their metadata, or refused with a reason, and nothing else happens."""

from itertools import islice

import pytest

from benchmarks.faults.hostile import is_a_reason, keeps_metadata, samples
from benchmarks.faults.mutations import MARKER, mutations, photos
from spark_jobs.ingest_images import IngestParams, accepted
from spark_jobs.photos.images import BadImage

PARAMS = IngestParams(
    images="",
    store="",
    version="",
    photos={},
    max_bytes=100_000_000,
    max_pixels=120_000_000,
    max_bad_share=1,
    keep_hours=0,
)


def test_each_photo_is_accepted_before_it_is_mutated_and_loses_its_metadata() -> None:
    for name, content in photos(samples()).items():
        stored, decoded, _ = accepted(PARAMS, content)
        assert MARKER in content and MARKER not in stored, name
        assert sorted((decoded.width, decoded.height)) in ([80, 120], [80, 112]), name


def test_mutated_photos_are_accepted_without_metadata_or_refused_with_a_reason() -> None:
    ends = {True: 0, False: 0}
    for name, content in mutations(samples(), 100, 320):
        try:
            stored, _, _ = accepted(PARAMS, content)
        except BadImage as reason:
            assert is_a_reason(str(reason)), (name, str(reason))  # noqa: PT017
            ends[False] += 1
        else:
            assert not keeps_metadata(stored), name
            ends[True] += 1
    assert min(ends.values()) > 50


def test_equal_seeds_give_equal_files_and_other_seeds_give_other_files() -> None:
    def first(seed: int) -> list[tuple[str, bytes]]:
        return list(islice(mutations(samples(), seed, 20), 20))

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize(
    "text", ["list index out of range", "unpack requires a buffer of 4 bytes", "x", "KeyError"]
)
def test_words_of_python_are_no_reason(text: str) -> None:
    assert not is_a_reason(text)


def test_text_beside_the_picture_is_found_and_text_that_became_pixels_is_not() -> None:
    made = photos(samples())
    bitmap = made["rgb.bmp"]
    assert keeps_metadata(made["baseline.jpg"])
    assert keeps_metadata(bitmap)
    assert not keeps_metadata(bitmap[:300] + MARKER + bitmap[306:-120])
