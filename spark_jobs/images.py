"""Checks and decodes the bytes of one photo, and computes the input of the model, with Pillow and NumPy only.

The bytes come from strangers, so the rules are strict:

| The file                                 | What `decode` does                                              |
|------------------------------------------|-----------------------------------------------------------------|
| JPEG, MPO, PNG, GIF, WebP, BMP, TIFF     | read by its contents; the name and its extension do not matter  |
| any other format (SVG, EPS, HTML, text)  | refused; formats that run an interpreter are never tried        |
| empty, truncated, damaged                | refused; every pixel is decoded here, so no later step fails    |
| over `max_pixels`, or a side over 65535  | refused from the header, before a pixel is decoded              |
| grey, palette, CMYK, YCbCr, LAB          | Pillow's conversion to RGB; colour profiles are not applied     |
| 16 bits a channel                        | the high byte of each value                                     |
| 32-bit integer grey                      | as 16-bit grey if its values fit in 16 bits, else refused       |
| floating point                           | refused: the file does not tell which value is white            |
| transparency                             | laid over white, the background of the fruit photos             |
| several frames or pages                  | the first                                                       |
| EXIF orientation                         | applied; broken EXIF is ignored                                 |

Pillow's own limits apply too, even if `max_pixels` is higher. Pillow refuses metadata that unpacks to
megabytes, and a picture over twice `PIL.Image.MAX_IMAGE_PIXELS` (by default 178956970 pixels in all).

A JPEG decoder conceals some damage inside the data; `decode` cannot detect it. Pillow's warnings are
silenced. The lines that libtiff itself prints to stderr about a damaged TIFF cannot be silenced.
"""

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from spark_jobs.dimensions import IMAGE_SIDE

# A version of the steps from a photo to the model's input; a change makes the features of every class stale.
PREPROCESSING = "exif-rgb-bicubic224-mobilenet_v2/1"

# "JPEG" covers MPO: Pillow's JPEG reader opens it, and "MPO" is not accepted in a list of formats.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")

# A version of the rules in the table above. After a change, the next run checks each photo again.
RULES = "1"

# The limit of the JPEG format. A picture of 50000000 x 1 is within the limit of pixels, yet the coefficients
# of its bicubic filter take 1.6 GB.
MAX_SIDE = 65_535

THUMBNAIL_SIDE = 48  # pixels
# The preview becomes metadata of an event in Dagster's database, so it has to stay small. At this quality
# 48 x 48 pixels of noise take 0.7 to 1.0 KiB, and a photo of a fruit takes 0.4 KiB.
THUMBNAIL_QUALITY = 35

# The transposition that makes the stored picture upright, by the value of EXIF 2.32, tag 0x0112.
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
    """A photo that goes to quarantine. The message is the reason: a short phrase for a person."""


class Decoded(NamedTuple):
    """A decoded photo: `image` is RGB and upright; `width` and `height` are its size in pixels."""

    image: Image.Image
    width: int
    height: int
    format: str


def decode(content: bytes, max_pixels: int) -> Decoded:
    """Decodes a whole photo by the rules in the module's table.

    Args:
        content: the bytes of the file.
        max_pixels: the largest allowed width x height, in pixels.

    Returns:
        The upright RGB picture, its size in pixels, and Pillow's name of its format ("JPEG", "PNG", ...).

    Raises:
        BadImage: the photo cannot be used; the message is the reason. No other exception is raised.
    """
    if not content:
        raise BadImage("empty file")
    # This changes the filters of the whole process, which is safe because no caller decodes in threads.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
            # Pillow raises this before the width and height are known here.
            raise BadImage(_over_limit("its pixels are", max_pixels)) from None
        except MemoryError:
            raise BadImage("not enough memory to decode it") from None
        except Exception as error:
            # Pillow documents no closed list. Its parsers have raised OSError, SyntaxError, ValueError,
            # struct.error, EOFError, zlib.error and OverflowError, among other errors.
            message = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadImage(f"truncated or damaged: {message}") from error
    return Decoded(image=upright, width=upright.width, height=upright.height, format=image.format or "")


def model_input(image: Image.Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The input of MobileNetV2: bicubic resize to 224 x 224, then `x / 127.5 - 1`.

    The values are bit-identical to `keras.applications.mobilenet_v2.preprocess_input` of the same pixels.

    Args:
        image: an RGB picture, as `decode` returns it.
        out: the array to write to, for example one row of a batch: shape (224, 224, 3), dtype float32.

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
        # NumPy would broadcast or round without an error.
        raise ValueError(f"out is {out.dtype} {out.shape}, not float32 {(IMAGE_SIDE, IMAGE_SIDE, 3)}")
    # The same operations as in preprocess_input, and three times faster than np.take on 256 prepared values.
    np.divide(
        np.asarray(image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)),
        np.float32(127.5),
        out=out,
    )
    return np.subtract(out, np.float32(1), out=out)


def thumbnails(images: Sequence[Image.Image]) -> bytes:
    """A preview: one row of thumbnails as a JPEG of at most 1 KiB for each picture, even of pure noise.

    Args:
        images: RGB pictures. Each is fitted whole into a white square of 48 x 48 pixels.

    Returns:
        The bytes of a JPEG of `len(images) * 48` x 48 pixels, or no bytes if there are no pictures.
    """
    if not images:
        return b""
    side = THUMBNAIL_SIDE
    sheet = Image.new("RGB", (side * len(images), side), "white")
    for column, image in enumerate(images):
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        sheet.paste(small, (column * side + (side - width) // 2, (side - height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels: the picture is empty")
    if width * height > max_pixels:
        raise BadImage(_over_limit(f"{width} x {height} pixels are", max_pixels))
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{width} x {height} pixels: a side is over {MAX_SIDE}")


def _over_limit(pixels_are: str, max_pixels: int) -> str:
    pillow_limit = Image.MAX_IMAGE_PIXELS
    if pillow_limit is not None and max_pixels > 2 * pillow_limit:
        return f"{pixels_are} over Pillow's limit of {2 * pillow_limit}"
    return f"{pixels_are} over the limit of {max_pixels} (FRUITS_MAX_IMAGE_PIXELS)"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("floating-point pixels: the file does not tell which value is white")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _grey_from_16_bits(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    """RGB from the high byte of grey values over 8 bits; Pillow's `convert` would clip them at 255.

    Pillow takes the high byte of 16-bit colour, so the same grey in a file of either kind gives the same
    pixel. The high byte also reverses exactly the widening of 8 bits to 16 (`v * 257`).
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65_535:
        raise BadImage("32-bit grey beyond 16 bits: the file does not tell which value is white")
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    # To be called after load(): Pillow turns a TIFF itself while it loads, and then drops the tag.
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return value if isinstance(value, int) else None
