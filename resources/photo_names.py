"""What names tell: files that lie beside photos and are none, folders that cannot be classes, alike names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

# Files that lie beside photos, by the ends of their names in small letters.
_COMPANIONS = {
    "films": (".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mkv", ".webm", ".mts", ".mpg", ".mpeg", ".wmv"),
    "sounds": (".mp3", ".m4a", ".wav", ".aac", ".ogg"),
    "notes and data": (
        *(".txt", ".md", ".rst", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".html", ".htm"),
        *(".names", ".log", ".rtf", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".pptx"),
        *(".npy", ".npz", ".pkl", ".mat", ".h5", ".parquet", ".tfrecord", ".db", ".sqlite", ".py", ".ipynb"),
    ),
    "edits of photos": (".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop"),
    "archives": (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
    "files of the system": (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "_$folder$", ".ini", ".lnk", ".url", ".icloud"),
        *(".tmp", ".part", ".crdownload", ".filepart"),
    ),
}
_ENDINGS = {ending: kind for kind, endings in _COMPANIONS.items() for ending in endings}
_BY_ENDING = re.compile(f"({'|'.join(map(re.escape, sorted(_ENDINGS, key=len, reverse=True)))})$")
_NOTES = re.compile(r"(read[ _-]?me|licen[cs]e|notice|authors|changelog|checksums?|md5sums?|sha\d+sums)$")

# Folders that tell how a data set is divided, and no fruit.
_DIVISIONS = {
    *("train", "training", "test", "testing", "val", "valid", "validation", "eval"),
    *("images", "image", "photos", "pictures", "data", "dataset"),
}

# Unicode's categories of characters that nobody sees, or that no font has.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
# Two of them join or separate letters of Persian and of scripts of India, and the parts of an emoji.
_JOINERS = "\u200c\u200d"


def companion(name: str) -> str | None:
    """The kind of a file that lies beside photos, by its name; None for a name that a photo may have."""
    small = name.casefold()
    if found := _BY_ENDING.search(small):
        return _ENDINGS[found[1]]
    return "notes and data" if _NOTES.fullmatch(small) else None


def invisible(text: str) -> str:
    """The first invisible character of a name, as a phrase; empty if there is none."""
    for character in text:
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS:
            return f"holds the invisible character U+{ord(character):04X}"
    return ""


def label_of(folder: str) -> str:
    """The class of a folder. A name is one class, whether its accents are letters or signs of their own."""
    return unicodedata.normalize("NFC", folder)


def unfit_for_partition(label: str) -> str:
    """The reason why a folder name cannot be a partition key; empty if it can."""
    if "..." in label:
        return "holds '...', which Dagster reads as a range of partitions"
    return invisible(label)


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ only in case, or in spaces and dots at their ends, each sorted."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        groups[label_of(label.casefold()).strip(" .")].append(label)
    return [group for group in groups.values() if len(group) > 1]


def only_divisions(labels: Iterable[str]) -> bool:
    """Whether all labels are names of parts of a data set, like train and test."""
    names = {label.casefold().strip() for label in labels}
    return bool(names) and names <= _DIVISIONS
