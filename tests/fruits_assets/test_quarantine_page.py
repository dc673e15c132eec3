"""The page of the photos in quarantine: the reason for each photo, from the store."""

from pathlib import Path

import pytest

from fruits_assets.ui import quarantine_page
from fruits_assets.ui.quarantine_page import quarantine_html
from spark_jobs.store.root import Root, open_root
from tests.spark_jobs.store.written import TABLE, commit_class


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def test_each_photo_is_shown_with_its_reason(root: Root) -> None:
    commit_class(root, "Kiwi", ["Kiwi/2.jpg", "Kiwi/1.jpg"])
    commit_class(root, "Lemon", ["Lemon/1.jpg"])
    page = quarantine_html(root)
    assert "3 photos of 2 classes" in page
    assert page.index("Kiwi/1.jpg") < page.index("Kiwi/2.jpg") < page.index("Lemon/1.jpg")
    assert page.count("<td>bad</td>") == 3


def test_a_class_and_a_text_choose_photos(root: Root) -> None:
    commit_class(root, "Kiwi", ["Kiwi/1.jpg", "Kiwi/other.jpg"])
    commit_class(root, "Lemon", ["Lemon/other.jpg"])
    page = quarantine_html(root, "Kiwi", "OTHER")
    assert "Kiwi/other.jpg" in page
    assert "Kiwi/1.jpg" not in page
    assert "Lemon/other.jpg" not in page
    assert "No photo has this text." in quarantine_html(root, "Kiwi", "nowhere")
    assert "No photo has this text." in quarantine_html(root, "Mango")


def test_a_store_without_bad_photos_has_a_page_too(root: Root) -> None:
    assert "No photo is in quarantine" in quarantine_html(root)


def test_names_are_text_and_no_markup(root: Root) -> None:
    name = "<script>alert(1)"
    commit_class(root, name, [f"{name}/\x1b[31m\u202e.jpg"])
    for page in (quarantine_html(root), quarantine_html(root, name, '"><b>')):
        assert "<script" not in page
        assert "<b>" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
    assert "?class=%3Cscript%3Ealert%281%29" in quarantine_html(root)


def test_a_long_list_says_that_it_is_not_complete(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_page, "SHOWN", 2)
    commit_class(root, "Kiwi", ["Kiwi/1.jpg", "Kiwi/2.jpg", "Kiwi/3.jpg"])
    page = quarantine_html(root)
    assert "Only the first 2 are shown" in page
    assert "Kiwi/3.jpg" not in page


def test_a_lost_file_is_named_and_hides_no_other_class(root: Root) -> None:
    part = commit_class(root, "Kiwi", ["Kiwi/1.jpg"])
    commit_class(root, "Lemon", ["Lemon/1.jpg"])
    Path(root.uri, part.path).unlink()
    page = quarantine_html(root)
    assert f"Kiwi: {root.uri_of(part.path)}" in page
    assert "Lemon/1.jpg" in page
    assert TABLE in part.path
