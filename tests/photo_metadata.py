"""Photos with every kind of metadata, which Debian's exiftool plants, and what exiftool reads from photos.

`apt-get install libimage-exiftool-perl` installs it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

SECRET = b"SECRET"
PLANTED = {
    "GPSLatitude": "48.85",
    "GPSLatitudeRef": "N",
    "GPSLongitude": "2.35",
    "GPSLongitudeRef": "E",
    "Artist": "SECRET artist",
    "Make": "SECRET make",
    "Model": "SECRET model",
    "DateTimeOriginal": "2024:01:02 03:04:05",
    "UserComment": "SECRET note",
    "XMP:Creator": "SECRET creator",
    "XMP:City": "SECRET city",
    "IPTC:By-line": "SECRET line",
    "Comment": "SECRET comment",
    "Orientation#": "6",
}
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_blocks": 3, "subsampling": 0}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("HEIF", {}),
    ("AVIF", {}),
    ("BMP", {}),
]
# The groups of exiftool in which nothing personal can be: the parts of a file, and its colours.
_HARMLESS = {"SourceFile", "File", "ICC_Profile", "ExifTool", "Composite"}
_HARMLESS |= {"JFIF", "QuickTime", "PNG", "RIFF", "GIF", "APP14"}
_PERSONAL = ("GPS", "Date", "Comment", "Artist", "Creator", "Make", "Model")
# In a TIFF, the tags of the picture are those of EXIF.
_OF_TIFF_PICTURES = {
    *("ImageWidth", "ImageHeight", "BitsPerSample", "Compression", "PhotometricInterpretation"),
    *("StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "PlanarConfiguration"),
    *("Predictor", "ExtraSamples", "YCbCrSubSampling", "ReferenceBlackWhite", "SampleFormat", "JPEGTables"),
    *("XResolution", "YResolution", "ResolutionUnit", "FillOrder", "YCbCrPositioning", "YCbCrCoefficients"),
    # exiftool takes a strip that is a JPEG for a preview.
    *("PreviewImage", "PreviewImageStart", "PreviewImageLength"),
}


def picture(width: int = 160, height: int = 120, mode: str = "RGB") -> Image.Image:
    colours = np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8)
    image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def planted(image: Image.Image, format: str, options: dict[str, Any], folder: Path) -> bytes:
    """A photo with all kinds of metadata, and bytes after its end. A file in `folder` comes and goes."""
    file = folder / "planted"
    image.save(file, format, **options)
    if format != "BMP":  # exiftool writes none
        values = [f"-{name}={value}" for name, value in PLANTED.items()]
        subprocess.run(["exiftool", "-q", "-q", "-m", "-overwrite_original", *values, str(file)], check=True)
    content = file.read_bytes()
    file.unlink()
    return content + SECRET * 20


def personal_tags(folder: Path) -> list[tuple[str, str]]:
    """The tags that exiftool reads from the files of a folder and that may be personal: (file, group:tag)."""
    files = [str(path) for path in folder.iterdir()]  # of a folder, it reads only names with an extension
    command = ["exiftool", "-j", "-G0", "-s", "-ee", "-U", *files]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [(Path(tags["SourceFile"]).name, tag) for tags in said for tag in tags if _may_be_personal(tag)]


def _may_be_personal(tag: str) -> bool:
    group, _, name = tag.partition(":")
    if group == "EXIF":
        return name != "Orientation" and name not in _OF_TIFF_PICTURES
    return group not in _HARMLESS or (
        group not in ("File", "ICC_Profile") and any(word in name for word in _PERSONAL)
    )
