"""`list_photos` on disk: labels, data versions, and the files that are skipped or refused with a reason."""

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resources.photo_folders import list_photos
from resources.photo_names import alike, only_divisions
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo
from tests.support import without_roots_powers

LONG_EMOJI = "😀" * 60  # 240 bytes
LONGEST = "é" * 127 + "x"  # 255 bytes: the limit of Linux file systems
AWKWARD = [
    "Apple Red",
    " leading and trailing ",
    "\"quotes\" and 'apostrophes'",
    "a=b",
    "version=1",
    "100%",
    "%20",
    "#1",
    "a,b;c",
    "Crème brûlée",
    "日本",
    LONG_EMOJI,
    LONGEST,
    "-rf",
    "=cmd()",
    "@home",
    "back\\slash",
    "*?[x]",
    "a:b",
    "~",
    "two..dots",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode(errors="surrogateescape"))


def paths_by_class(root: Path) -> dict[str, list[str]]:
    classes = list_photos(str(root)).classes
    return {label: [photo.path for photo in photos] for label, photos in classes.items()}


# Labels.


def test_the_label_is_the_name_of_the_nearest_folder(root: Path) -> None:
    put(root, "Kiwi/1.jpg", "test/2024/Banana/2.jpg", "Kiwi/Gold/3.jpg")
    assert paths_by_class(root) == {
        "Banana": ["test/2024/Banana/2.jpg"],
        "Gold": ["Kiwi/Gold/3.jpg"],
        "Kiwi": ["Kiwi/1.jpg"],
    }


def test_folders_of_the_same_name_are_one_class_sorted_by_path(root: Path) -> None:
    put(root, "train/Kiwi/2.jpg", "Kiwi/9.jpg", "test/Kiwi/1.jpg", "test/Kiwi/10.jpg")
    assert paths_by_class(root) == {
        "Kiwi": ["Kiwi/9.jpg", "test/Kiwi/1.jpg", "test/Kiwi/10.jpg", "train/Kiwi/2.jpg"]
    }


def test_a_photo_has_the_size_and_time_of_its_file(root: Path) -> None:
    put(root, "Kiwi/1.jpg")
    os.utime(root / "Kiwi/1.jpg", (1_700_000_000, 1_700_000_000))
    [photo] = list_photos(str(root)).classes["Kiwi"]
    assert photo == Photo("Kiwi/1.jpg", 10, 1_700_000_000_000_000)


@pytest.mark.parametrize("label", AWKWARD)
def test_an_unusual_folder_name_becomes_the_label_unchanged(root: Path, label: str) -> None:
    put(root, f"{label}/1.jpg", f"deep/{label}/{label[:20]}.jpg")
    assert paths_by_class(root) == {label: sorted([f"{label}/1.jpg", f"deep/{label}/{label[:20]}.jpg"])}


# The data version of a class.


def test_a_changed_photo_changes_only_the_version_of_its_class(root: Path) -> None:
    put(root, "Kiwi/1.jpg", "Banana/1.jpg")
    versions = []

    def record_versions() -> None:
        listing = list_photos(str(root))
        versions.append((listing.version("Kiwi"), listing.version("Banana")))

    record_versions()
    record_versions()
    put(root, "Kiwi/2.jpg")
    record_versions()
    os.utime(root / "Kiwi/2.jpg", (1, 1))
    record_versions()
    (root / "Kiwi/2.jpg").rename(root / "Kiwi/3.jpg")
    record_versions()
    kiwi, banana = zip(*versions, strict=True)
    assert len(set(banana)) == 1
    assert kiwi[0] == kiwi[1]
    assert len(set(kiwi)) == 4


# Names that are refused and files that are skipped, each with the reason.


@pytest.mark.parametrize("label", ["a...b", "trailing..."])
def test_a_folder_name_that_cannot_be_a_partition_is_refused(root: Path, label: str) -> None:
    put(root, f"{label}/1.jpg", "Kiwi/1.jpg", f"{label}/Banana/1.jpg")
    listing = list_photos(str(root))
    assert list(listing.classes) == ["Banana", "Kiwi"]
    assert list(listing.refused) == [label]
    assert listing.refused[label].startswith("holds ")


INVISIBLE = [
    "new\nline",
    "tab\t",
    "\x01",
    "\x85",
    "\u202egpj.iwiK",
    "a\u200b",
    "\u2028b",
    "\ufeffKiwi",
    "\ue000",
]


@pytest.mark.parametrize("name", INVISIBLE)
def test_a_name_with_an_invisible_character_is_refused_or_skipped_by_name(root: Path, name: str) -> None:
    put(root, f"{name}/1.jpg", "Kiwi/1.jpg", f"{name}/Banana/1.jpg", f"Kiwi/{name}.jpg")
    listing = list_photos(str(root))
    assert paths_by_class(root) == {"Kiwi": ["Kiwi/1.jpg"]}
    assert list(listing.refused) == [name]
    assert set(listing.skipped) == {f"{name}/Banana/1.jpg", f"Kiwi/{name}.jpg"}
    for reason in (*listing.refused.values(), *listing.skipped.values()):
        assert reason.startswith("holds the invisible character U+")


@pytest.mark.parametrize(
    "label", ["\u062a\u0648\u062a\u200c\u0641\u0631\u0646\u06af\u06cc", "\U0001f469\u200d\U0001f33e"]
)
def test_a_character_that_joins_or_separates_letters_belongs_to_a_name(root: Path, label: str) -> None:
    put(root, f"{label}/1.jpg")
    assert list(list_photos(str(root)).classes) == [label]


# Files that lie beside photos.

COMPANIONS = {
    "films": ["IMG_1.MOV", "a.mp4"],
    "notes and data": [
        "1.xml",
        "1.jpg.json",
        "labels.csv",
        "README",
        "LICENSE",
        "Readme.md",
        "Orange_Info.txt",
    ],
    "edits of photos": ["IMG_1.AAE", "1.xmp"],
    "archives": ["photos.zip", "photos.tar.gz"],
    "files of the system": ["Thumbs.db", "desktop.ini", "Kiwi_$folder$", "1.jpg.crdownload"],
}


def test_files_that_lie_beside_photos_are_counted_by_kind_and_are_no_class(root: Path) -> None:
    put(root, "Kiwi/1.jpg", *(f"Kiwi/{name}" for names in COMPANIONS.values() for name in names))
    put(root, "Notes/1.txt", "readme.txt", "Kiwi/._1.jpg", "__MACOSX/Kiwi/._1.jpg")
    listing = list_photos(str(root))
    assert paths_by_class(root) == {"Kiwi": ["Kiwi/1.jpg"]}
    counts = {kind: len(names) for kind, names in COMPANIONS.items()}
    assert listing.companions == counts | {"notes and data": counts["notes and data"] + 2}


@pytest.mark.parametrize(
    "name", ["photo", "1.jpg.1", "IMG_1", "db", "x.JPG", "license plate.jpg", "1.heic", "1.txt.jpg"]
)
def test_a_file_that_may_be_a_photo_is_listed_whatever_its_name(root: Path, name: str) -> None:
    put(root, f"Kiwi/{name}")
    assert paths_by_class(root) == {"Kiwi": [f"Kiwi/{name}"]}


# Names that look alike.


def test_a_name_is_one_class_in_both_normal_forms_of_unicode(root: Path) -> None:
    composed, decomposed = "P\u00eache", "Pe\u0302che"
    put(root, f"{composed}/1.jpg", f"{decomposed}/2.jpg", "Kiwi/1.jpg", "test/Kiwi/2.jpg", "Fig/1.jpg")
    listing = list_photos(str(root))
    assert list(listing.classes) == ["Fig", "Kiwi", composed]
    assert {photo.path for photo in listing.classes[composed]} == {f"{composed}/1.jpg", f"{decomposed}/2.jpg"}
    assert listing.several_folders == {"Kiwi": 2, composed: 2}


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["Apple", "apple", "Apple ", "Apple.", "Pear"], [["Apple", "Apple ", "Apple.", "apple"]]),
        (["\u00c9t\u00e9", "\u00e9t\u00e9"], [["\u00c9t\u00e9", "\u00e9t\u00e9"]]),
        (["Apple 1", "Apple 2"], []),
    ],
)
def test_names_that_differ_in_case_or_in_their_ends_look_alike(
    labels: list[str], groups: list[list[str]]
) -> None:
    assert alike(labels) == groups


@pytest.mark.parametrize(
    ("labels", "only"),
    [(["train", "Test"], True), (["images"], True), (["train", "Kiwi"], False), ([], False)],
)
def test_classes_may_be_only_the_parts_of_a_data_set(labels: list[str], only: bool) -> None:
    assert only_divisions(labels) == only


@pytest.mark.parametrize("path", [".cache/1.jpg", "_old/1.jpg", "Kiwi/_bad/Banana/2.jpg", "Kiwi/.DS_Store"])
def test_a_name_with_a_leading_dot_or_underscore_is_skipped(root: Path, path: str) -> None:
    put(root, path, "Kiwi/1.jpg")
    listing = list_photos(str(root))
    assert paths_by_class(root) == {"Kiwi": ["Kiwi/1.jpg"]}
    [(name, reason)] = listing.skipped.items()
    assert path.startswith(name)
    assert name.rpartition("/")[2].startswith((".", "_"))
    assert reason == "begins with . or _"


def test_a_file_outside_any_folder_is_skipped(root: Path) -> None:
    put(root, "2.jpg", "Kiwi/1.jpg")
    listing = list_photos(str(root))
    assert list(listing.classes) == ["Kiwi"]
    assert listing.skipped == {"2.jpg": "is in no folder, so it has no label"}


def test_a_pipe_is_skipped(root: Path) -> None:
    put(root, "Kiwi/1.jpg")
    os.mkfifo(root / "Kiwi/pipe.jpg")
    assert list(list_photos(str(root)).skipped) == ["Kiwi/pipe.jpg"]


@pytest.mark.parametrize(
    "path", [b"Kiwi/\xff.jpg", b"\xffpple/1.jpg", b"\xff/Banana/1.jpg"], ids=["file", "label", "parent"]
)
def test_a_name_that_is_not_utf8_is_skipped_and_reported_in_utf8(root: Path, path: bytes) -> None:
    put(root, "Kiwi/1.jpg", os.fsdecode(path))
    listing = list_photos(str(root))
    assert paths_by_class(root) == {"Kiwi": ["Kiwi/1.jpg"]}
    [(name, reason)] = listing.skipped.items()
    assert name.encode() in (path.replace(b"\xff", rb"\xff"), rb"\xff", rb"\xffpple")
    assert reason == "has a name that is not UTF-8"


@pytest.mark.parametrize("may_be_empty", [True, False])
def test_a_root_that_cannot_be_listed_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, may_be_empty: bool
) -> None:
    put(root, "Kiwi/1.jpg")

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        FruitsError, match=f"^FRUITS_IMAGES={root} cannot be listed: Permission denied. Check"
    ):
        list_photos(str(root), may_be_empty=may_be_empty)


def test_a_folder_without_read_permission_is_skipped(root: Path) -> None:
    put(root, "Kiwi/1.jpg", "Closed/1.jpg")
    (root / "Closed").chmod(0)
    program = (
        "import json, sys; from resources.photo_folders import list_photos; "
        "listing = list_photos(sys.argv[1]); print(json.dumps([list(listing.classes), listing.skipped]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        preexec_fn=without_roots_powers,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [["Kiwi"], {"Closed": "cannot be listed: Permission denied"}]


# Links.


def test_links_out_of_the_root_are_not_followed(root: Path, tmp_path: Path) -> None:
    # Its path begins with the path of the root: a comparison of text alone would accept it.
    outside = tmp_path / "root-of-others"
    put(outside, "secret.jpg", "Banana/1.jpg")
    put(root, "Kiwi/1.jpg")
    (root / "Kiwi/link.jpg").symlink_to(outside / "secret.jpg")
    (root / "Banana").symlink_to(outside / "Banana")
    (root / "up").symlink_to("..")
    listing = list_photos(str(root))
    assert paths_by_class(root) == {"Kiwi": ["Kiwi/1.jpg"]}
    assert listing.skipped == dict.fromkeys(
        ["Banana", "Kiwi/link.jpg", "up"], "is a link that leads out of FRUITS_IMAGES"
    )


def test_links_inside_the_root_are_followed(root: Path) -> None:
    put(root, "Kiwi/1.jpg", "Banana/2.jpg")
    (root / "Kiwi/too.jpg").symlink_to("../Banana/2.jpg")
    (root / "Green").symlink_to("Kiwi")
    assert paths_by_class(root) == {
        "Banana": ["Banana/2.jpg"],
        "Green": ["Green/1.jpg", "Green/too.jpg"],
        "Kiwi": ["Kiwi/1.jpg", "Kiwi/too.jpg"],
    }


def test_loops_of_links_are_not_followed(root: Path) -> None:
    put(root, "a/1.jpg", "b/1.jpg")
    (root / "a/self").symlink_to("self")
    (root / "a/above").symlink_to("..")
    (root / "a/b").symlink_to("../b")
    (root / "b/a").symlink_to("../a")
    listing = list_photos(str(root))
    assert paths_by_class(root) == {
        "a": ["a/1.jpg", "b/a/1.jpg"],
        "b": ["a/b/1.jpg", "b/1.jpg"],
    }
    assert {"a/self", "a/above", "a/b/a", "b/a/b"} <= listing.skipped.keys()


def test_folders_that_link_to_each_other_are_listed_once_from_each(root: Path) -> None:
    names = [f"class {number}" for number in range(12)]
    put(root, *(f"{name}/{name}.jpg" for name in names))
    for name in names:
        for other in names:
            if other != name:
                (root / name / other).symlink_to(f"../{other}")
    listing = list_photos(str(root))
    assert {len(photos) for photos in listing.classes.values()} == {len(names)}


def test_folders_that_are_too_deep_are_skipped_and_the_others_are_listed(root: Path) -> None:
    put(root, "Kiwi/1.jpg", f"{'x/' * 200}1.jpg")
    listing = list_photos(str(root))
    assert list(listing.classes) == ["Kiwi"]
    assert list(listing.skipped.values()) == ["is more than 64 folders deep"]


@pytest.mark.parametrize(("year", "clamped"), [(2400, 2262), (2024, 2024)])
def test_a_time_that_no_column_holds_is_clamped(root: Path, year: int, clamped: int) -> None:
    put(root, "Kiwi/1.jpg")
    seconds = round((year - 1970) * 365.2425 * 86_400)
    os.utime(root / "Kiwi/1.jpg", (seconds, seconds))
    [photo] = list_photos(str(root)).classes["Kiwi"]
    assert datetime.fromtimestamp(photo.modified / 1e6, UTC).year == clamped


def test_a_broken_link_is_skipped(root: Path) -> None:
    put(root, "Kiwi/1.jpg")
    (root / "Kiwi/broken.jpg").symlink_to("none.jpg")
    assert list(list_photos(str(root)).skipped) == ["Kiwi/broken.jpg"]


def test_a_root_that_is_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    put(root, "Kiwi/1.jpg")
    (tmp_path / "link").symlink_to(root)
    assert paths_by_class(tmp_path / "link") == {"Kiwi": ["Kiwi/1.jpg"]}


# Roots without photos.


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (None, "does not exist. Set it to the folder or s3:// prefix that holds"),
        ([], "holds no photo in a class folder.*Put the photos of each fruit class into a folder"),
        (["1.jpg", "2.jpg"], r"holds no photo in a class folder \(2 entries were skipped.*Put the photos"),
        ([".cache/1.jpg"], r"holds no photo in a class folder \(1 entry was skipped"),
        (
            ["a...b/1.jpg"],
            r"holds no photo in a class folder \(1 class name was refused\)",
        ),
    ],
    ids=["missing", "empty", "files without folders", "hidden folders", "refused folders"],
)
def test_a_root_without_photos_is_refused_with_the_remedy(
    root: Path, paths: list[str] | None, sentence: str
) -> None:
    if paths is not None:
        root.mkdir()
        put(root, *paths)
    with pytest.raises(FruitsError, match=f"^FRUITS_IMAGES={root} {sentence}"):
        list_photos(str(root))


def test_a_root_that_is_a_file_is_refused_with_the_remedy(root: Path) -> None:
    root.write_text("no folder")
    with pytest.raises(FruitsError, match=f"^FRUITS_IMAGES={root} is a file. Set it to"):
        list_photos(str(root))


def test_a_root_of_empty_folders_is_refused_with_the_remedy(root: Path) -> None:
    (root / "Kiwi").mkdir(parents=True)
    with pytest.raises(FruitsError, match="holds no photo in a class folder"):
        list_photos(str(root))
