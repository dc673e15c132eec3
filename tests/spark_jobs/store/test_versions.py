"""Names of classes and data versions."""

import pytest

from spark_jobs.store.versions import class_key, combined_version, digest_text, photo_digest

AWKWARD = [
    "=cmd()",
    "-rf",
    "a b",
    "a-b",
    "A b",
    "é",
    "e",
    "😀" * 60,
    "é" * 127 + "x",
    "100%/"[:4],
    "#1",
    "日本",
]


@pytest.mark.parametrize("label", AWKWARD)
def test_a_class_key_is_short_and_alphanumeric(label: str) -> None:
    key = class_key(label)
    assert key.replace("-", "").isalnum()
    assert key.isascii()
    assert not key.startswith("-")
    assert len(key) <= 61


def test_similar_class_names_have_different_keys() -> None:
    assert len({class_key(label).lower() for label in AWKWARD}) == len(AWKWARD)


def test_a_combined_version_depends_on_every_part_and_their_order() -> None:
    versions = [combined_version(*parts) for parts in (["ab", "c"], ["a", "bc"], ["bc", "a"], ["abc"], [])]
    assert len(set(versions)) == len(versions)


def test_a_digest_is_the_same_for_the_same_photos_in_any_order() -> None:
    photos = [("a.jpg", "1"), ("b.jpg", "2"), ("c.jpg", "3")]
    digests = [sum(photo_digest(*photo) for photo in order) for order in (photos, photos[::-1])]
    other = sum(photo_digest(*photo) for photo in [("a.jpg", "2"), ("b.jpg", "1"), ("c.jpg", "3")])
    assert digest_text(digests[0]) == digest_text(digests[1]) != digest_text(other)
    assert len(digest_text(digests[0])) == 64
