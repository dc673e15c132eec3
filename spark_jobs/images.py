"""One photo's bytes: checked, decoded, and made into the model's input. Pillow and NumPy only.

Every cluster node imports this module, and the bytes come from strangers, so the rules are strict:

| The file                                 | What `decode` does                                              |
|------------------------------------------|-----------------------------------------------------------------|
| JPEG, MPO, PNG, GIF, WebP, BMP, TIFF     | read by its contents; the name and its extension do not matter  |
| anything else (SVG, EPS, HTML, text)     | refused; a format that runs an interpreter is never tried       |
| empty, truncated, damaged                | refused; every pixel is decoded here, so nothing fails later    |
| over `max_pixels`, or a side over 65535  | refused from the header, before a pixel is decoded              |
| grey, palette, CMYK, YCbCr, LAB          | Pillow's conversion to RGB; colour profiles are not applied     |
| 16 bits a channel                        | the high byte of each value                                     |
| 32-bit integer grey                      | as 16-bit grey if its values fit in 16 bits, else refused       |
| floating point                           | refused: nothing says which value is white                      |
| transparency                             | laid over white, the background of the fruit photos             |
| several frames or pages                  | the first                                                       |
| EXIF orientation                         | applied; broken EXIF is ignored                                 |

Pillow's own limits stay as the process has them: metadata that unpacks to megabytes is refused, and so
is a picture over twice `PIL.Image.MAX_IMAGE_PIXELS` (178956970 pixels unless someone changed it),
whatever `max_pixels` allows. Damage inside a JPEG's data that its decoder conceals cannot be seen here.
Python warnings of Pillow are silenced; libtiff's own lines on stderr about a damaged TIFF cannot be.
"""

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from spark_jobs.dimensions import IMAGE_SIDE

# Pillow's JPEG reader opens MPO too; under that name it has no reader to list.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")

# JPEG's own limit. Without one a 50000000 x 1 picture is within the pixel limit, yet the bicubic filter
# for it takes 1.6 GB of coefficients.
MAX_SIDE = 65_535

# EXIF 2.32, tag 0x0112: how to turn the stored picture so that it is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """A photo to put in quarantine. The message is the reason, a short phrase for a person."""


class Decoded(NamedTuple):
    """A decoded photo: `image` is RGB and upright; `width` and `height` are its size in pixels."""

    image: Image.Image
    width: int
    height: int
    format: str


def decode(content: bytes, max_pixels: int) -> Decoded:
    """Decode a whole photo by the rules in the module's table.

    Args:
        content: the bytes of the file.
        max_pixels: the largest allowed width x height, in pixels.

    Returns:
        The upright RGB picture, its size in pixels, and Pillow's name of its format ("JPEG", "PNG", ...).

    Raises:
        BadImage: the photo cannot be used; the message says why. No other exception.
    """
    if not content:
        raise BadImage("empty file")
    with _quiet():
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_size(image.width, image.height, max_pixels)
            image.load()
            rgb = _to_rgb(image)
            turn = _UPRIGHT.get(_orientation(image) or 1)
            upright = rgb if turn is None else rgb.transpose(turn)
        except BadImage:
            raise
        except UnidentifiedImageError:
            raise BadImage(f"not an image in a supported format ({', '.join(FORMATS)})") from None
        except Image.DecompressionBombError:
            # Pillow refuses before it says the width and height.
            raise BadImage(_over_limit("its pixels are", max_pixels)) from None
        except MemoryError:
            raise BadImage("not enough memory to decode it") from None
        except Exception as error:
            # Pillow documents no closed list: OSError, SyntaxError, ValueError, struct.error, EOFError,
            # zlib.error, OverflowError and others have all come out of its parsers.
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadImage(f"truncated or damaged: {words}") from error
    return Decoded(image=upright, width=upright.width, height=upright.height, format=image.format or "")


def model_input(image: Image.Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The input of MobileNetV2: bicubic resize to 224 x 224, then `x / 127.5 - 1`.

    The values are bit-identical to `keras.applications.mobilenet_v2.preprocess_input` of the same pixels.

    Args:
        image: an RGB picture, as `decode` returns.
        out: where to write, shape (224, 224, 3), dtype float32, such as one row of a batch.

    Returns:
        `out`, or a new array: shape (224, 224, 3), dtype float32, values from -1 to 1.

    Raises:
        ValueError: the picture is not RGB, or `out` has another shape or dtype.
    """
    if image.mode != "RGB":
        raise ValueError(f"the picture is {image.mode}, not RGB")
    if out is None:
        out = np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float32)
    elif out.shape != (IMAGE_SIDE, IMAGE_SIDE, 3) or out.dtype != np.float32:
        # NumPy would broadcast or round silently.
        raise ValueError(f"out is {out.dtype} {out.shape}, not float32 {(IMAGE_SIDE, IMAGE_SIDE, 3)}")
    # Three times faster than a 256-entry table with np.take, and the operations of preprocess_input.
    np.divide(
        np.asarray(image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)),
        np.float32(127.5),
        out=out,
    )
    return np.subtract(out, np.float32(1), out=out)


def thumbnails(images: Sequence[Image.Image], side: int = 48) -> bytes:
    """One row of thumbnails as a JPEG, for a preview: at most 1 KiB a picture at the default side.

    Args:
        images: RGB pictures, each fitted whole into a white square.
        side: of a square, in pixels.

    Returns:
        The JPEG's bytes, `len(images) * side` by `side` pixels; empty without pictures.
    """
    if not images:
        return b""
    sheet = Image.new("RGB", (side * len(images), side), "white")
    for column, image in enumerate(images):
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        sheet.paste(small, (column * side + (side - width) // 2, (side - height) // 2))
    content = b""
    for quality in (80, 65, 50, 35, 20, 10, 5):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        content = buffer.getvalue()
        if len(content) <= 1024 * len(images):
            break
    return content


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels: nothing to see")
    if width * height > max_pixels:
        raise BadImage(_over_limit(f"{width} x {height} pixels are", max_pixels))
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{width} x {height} pixels: a side is over {MAX_SIDE}")


def _over_limit(what: str, max_pixels: int) -> str:
    pillows = Image.MAX_IMAGE_PIXELS
    if pillows is not None and max_pixels > 2 * pillows:
        return f"{what} over Pillow's limit of {2 * pillows}"
    return f"{what} over the limit of {max_pixels} (FRUITS_MAX_IMAGE_PIXELS)"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("floating-point pixels: nothing says which value is white")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _grey_from_16_bits(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as RGB, by the high byte: Pillow's `convert` would clip at 255 instead.

    The high byte is what Pillow takes of 16-bit colour, so the same grey in either kind of file is equal.
    It also undoes exactly the widening from 8 bits to 16 (`v * 257`).
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65_535:
        raise BadImage("32-bit grey beyond 16 bits: nothing says which value is white")
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    # After load(): Pillow turns a TIFF itself while loading, and then drops the tag.
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return value if isinstance(value, int) else None


_quiet_lock = threading.Lock()
_quiet_threads = 0
_quiet_filters: warnings.catch_warnings | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that Pillow raises in this block, and no others.

    `warnings.catch_warnings` swaps the filters of the whole process; when threads overlap, the last one
    to leave could put back another's. So the first thread in swaps them, and the last one out restores.
    """
    global _quiet_threads, _quiet_filters
    with _quiet_lock:
        if _quiet_threads == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b")
        _quiet_threads += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_threads -= 1
            if _quiet_threads == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
