"""The texts of an erased photo are found in each form in which programs write them, and blanked."""

import ast
import base64
import gzip
import hashlib
import html
import json
import random
import shlex
import stat
import time
import urllib.parse
from pathlib import Path

import pytest

from resources import erased_texts
from resources.erased_texts import TextSearch, blank_file, blanked, found_in, search_for, texts_of

PATH = 'Training/Pêche d\'été/0 "1"\\2 <&>.jpg'
DIGEST = hashlib.sha256(b"a photo").hexdigest()
TEXTS = texts_of([PATH], [DIGEST])

# A message with both quotation marks: Python's repr escapes one of them.
MESSAGE = f"""/photos/{PATH}: the file isn't an "image"."""
IN_JSON = json.dumps({"path": PATH})

WRITTEN = {
    "itself": MESSAGE,
    "repr": repr(PATH),
    "repr of a message": repr(MESSAGE),
    "ascii": ascii(PATH),
    "repr of bytes": repr(PATH.encode()),
    "JSON": IN_JSON,
    "JSON of UTF-8": json.dumps([PATH], ensure_ascii=False),
    "JSON in JSON": json.dumps(IN_JSON),
    "JSON in JSON in JSON": json.dumps([json.dumps(IN_JSON)]),
    "UTF-8 in JSON in JSON": json.dumps(json.dumps([PATH], ensure_ascii=False)),
    "repr in JSON in JSON": json.dumps(json.dumps(f"cannot read {PATH!r}")),
    "URL": "s3://photos/" + urllib.parse.quote(PATH),
    "one part of a URL": urllib.parse.quote(PATH, safe=""),
    "form": urllib.parse.urlencode({"key": PATH}, safe="/"),
    "shell": shlex.join(["fruits", "erase", PATH]),
    "HTML": html.escape(PATH),
    "text of HTML": html.escape(PATH, quote=False),
    "SHA-256": DIGEST,
    "SHA-256 in capitals": DIGEST.upper(),
    "SHA-256 in base64": base64.b64encode(bytes.fromhex(DIGEST)).decode(),
    "SHA-256 in JSON": json.dumps({"sha256": DIGEST}),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_no_form_of_a_photo_stays_and_the_length_does(form: str) -> None:
    content = b"before " + WRITTEN[form].encode() + b" after"
    assert found_in(content, TEXTS)
    cleaned = blanked(content, TEXTS)
    assert len(cleaned) == len(content) and not found_in(cleaned, TEXTS)
    assert cleaned.startswith(b"before ") and cleaned.endswith(b" after")
    remains = cleaned.lower()
    for part in (b"che d", b"jpg", DIGEST[:8].encode(), DIGEST[-8:].encode()):
        assert part not in remains


def test_the_bytes_of_a_sha256_are_blanked() -> None:
    raw = bytes.fromhex(DIGEST)
    assert blanked(b"\0" + raw + b"\xff", TEXTS) == b"\0" + b"*" * 32 + b"\xff"


def test_texts_are_different_and_the_longest_come_first() -> None:
    lengths = [len(text.encode("utf-8", "surrogateescape")) for text in TEXTS]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(TEXTS)) == len(TEXTS)


def test_a_decomposed_name_is_the_same_photo() -> None:
    # macOS lists names with accents as signs of their own.
    texts = texts_of(["Pe\u0302che/1.jpg"], [])
    assert blanked("Pêche/1.jpg".encode(), texts) == b"*" * 12
    assert blanked("Pe\u0302che/1.jpg".encode(), texts) == b"*" * 13


def test_photos_that_overlap_are_blanked_as_a_whole() -> None:
    texts = texts_of(["Training/Kiwi/1.jpg", "Kiwi/1.jpg", "1.jpg/Kiwi/2.jpg", "Kiwi/1.jp"], [])
    assert blanked(b"a Training/Kiwi/1.jpg/Kiwi/2.jpg, Kiwi/1.jpx b", texts) == b"a " + b"*" * 30 + b", " + (
        b"*" * 9 + b"x b"
    )


def test_a_short_path_is_found_at_both_ends() -> None:
    for path in ("a/b", "Kiwi/1.jpg"):
        content = path.encode()
        assert blanked(content + b" x " + content, texts_of([path], [])) == (
            b"*" * len(path) + b" x " + b"*" * len(path)
        )


def test_without_texts_nothing_is_found() -> None:
    assert not found_in(b"a/b.jpg", [])
    assert blanked(b"a/b.jpg", texts_of([], [])) == b"a/b.jpg"


def test_json_stays_valid_where_a_path_begins_inside_of_an_escape_sequence() -> None:
    texts = texts_of(["nectarine/1.jpg", "9/2.jpg", "u00e9/3.jpg"], [])
    for message in ("a\nectarine/1.jpg", "é/2.jpg", "é/3.jpg", "nectarine/1.jpg", "\\nectarine/1.jpg"):
        cleaned = blanked(json.dumps([message, "stays"]).encode(), texts)
        assert not found_in(cleaned, texts)
        assert json.loads(cleaned)[1] == "stays"


def test_search_agrees_with_a_search_for_one_text_after_the_other() -> None:
    choose = random.Random(26)
    for _ in range(200):
        texts = ["".join(choose.choices("ab/", k=choose.randint(1, 12))) for _ in range(5)]
        content = "".join(choose.choices("ab/c", k=60))
        covered = {
            place
            for text in texts
            for first in range(len(content))
            if content.startswith(text, first)
            for place in range(first, first + len(text))
        }
        expected = "".join("*" if place in covered else each for place, each in enumerate(content))
        assert blanked(content.encode(), texts).decode() == expected


def test_thousands_of_photos_are_found_in_megabytes_within_seconds() -> None:
    paths = [f"Training/Class {number % 50}/{number}_100.jpg" for number in range(5000)]
    search = TextSearch(texts_of(paths, [hashlib.sha256(path.encode()).hexdigest() for path in paths]))
    line = b"INFO executor 7: read Training/Class 7/99999_100.jpg in 0.031 s, sha256=" + b"0" * 64 + b"\n"
    content = line * 60_000 + paths[-1].encode()
    start = time.process_time()
    assert len(search.places(content)) == 1
    # 8 MB take 0.4 s. An alternation of Python's `re` takes minutes.
    assert time.process_time() - start < 10


def test_a_file_is_overwritten_in_place_also_where_chunks_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erased_texts, "_CHUNK", 50)
    monkeypatch.setattr(erased_texts, "_LONGEST", 20)
    file = tmp_path / "log"
    for before in range(40, 60):
        content = b"x" * before + b"Kiwi/1.jpg" + b"y" * 100 + b"Kiwi/1.jpg.old" + b"z" * 7
        file.write_bytes(content)
        inode = file.stat().st_ino
        assert blank_file(file, ["Kiwi/1.jpg", "Kiwi/1.jpg.old"])
        assert file.read_bytes() == content.replace(b"Kiwi/1.jpg.old", b"*" * 14).replace(
            b"Kiwi/1.jpg", b"*" * 10
        )
        assert file.stat().st_ino == inode
    assert not blank_file(file, ["Kiwi/1.jpg"])


def test_a_look_changes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"Kiwi/1.jpg")
    assert blank_file(file, ["Kiwi/1.jpg"], write=False)
    assert file.read_bytes() == b"Kiwi/1.jpg"


def test_a_file_in_gzip_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "log.gz"
    file.write_bytes(gzip.compress(b"a Kiwi/1.jpg\n") + gzip.compress(b"b Kiwi/1.jpg\n"))
    file.chmod(0o640)
    assert blank_file(file, ["Kiwi/1.jpg"], write=False)
    assert blank_file(file, ["Kiwi/1.jpg"])
    assert gzip.decompress(file.read_bytes()) == b"a **********\nb **********\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_broken_file_in_gzip_is_removed_if_it_holds_a_photo(tmp_path: Path) -> None:
    content = gzip.compress(b"a Kiwi/1.jpg\n" + random.Random(1).randbytes(100_000))[:-20_000]
    for name in ("with.gz", "without.gz"):
        (tmp_path / name).write_bytes(content)
    assert blank_file(tmp_path / "with.gz", ["Kiwi/1.jpg"])
    assert not blank_file(tmp_path / "without.gz", ["Kiwi/2.jpg"])
    assert [path.name for path in tmp_path.iterdir()] == ["without.gz"]


def test_a_search_is_made_once_for_many_contents() -> None:
    assert search_for(list(TEXTS)) is search_for(list(TEXTS))


def test_a_python_literal_stays_one() -> None:
    literal = repr({"path": PATH, "number": 1})
    assert ast.literal_eval(blanked(literal.encode(), TEXTS).decode())["number"] == 1
