"""Drawn sample photos, so that the platform runs before anyone has a dataset.

They have the shape of Fruits-360 (https://www.kaggle.com/datasets/moltean/fruits): one folder a class,
100 x 100 JPEGs on white, named `<n>_100.jpg`, which are the frames of one turning fruit.

A fruit is a body and a skin. The body says for each pixel which point of the fruit is seen there and
where its surface faces; the skin is the unrolled surface. A frame looks the skin up through the body,
shifted by the turn, and lights it.
"""

import io
import os
from collections.abc import Callable
from math import cos, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 100
"""Of a sample, in pixels."""

_CANVAS = 3 * SIDE  # supersampled: the shrinking smooths every edge
_ROWS, _COLUMNS = 256, 512  # of a skin

Floats = NDArray[np.floating[Any]]
Skin = Callable[[np.random.Generator], Floats]
"""Draws an unrolled surface: (256, 512, 3), 0 to 255. Rows run along the fruit, columns around it."""
Extras = Callable[[ImageDraw.ImageDraw, float], None]
"""Draws stem and leaf over a frame, in units of half the canvas; the number is the turn in radians."""


class Body(NamedTuple):
    """The visible surface. One entry for each covered pixel of the canvas, in row order.

    covered: (300, 300) bool. along: 0 to 1, one end of the fruit to the other. around: in turns.
    normal: (n, 3) float32, unit vectors to the right, down, and toward the viewer.
    """

    covered: NDArray[np.bool_]
    along: Floats
    around: Floats
    normal: Floats


class Fruit(NamedTuple):
    body: Body
    skin: Skin
    extras: Extras | None = None
    gloss: float = 0.35
    tilt: float = 0.0
    """In degrees: how the fruit lies."""
    swing: float = 6.0
    """In degrees: how far it leans to and fro during a turn."""


def draw_samples(root: Path, images_per_class: int = 40, seed: int = 7) -> list[str]:
    """Draw the sample photos: `root/<class>/<n>_100.jpg`, n from 0.

    The same arguments write the same bytes, with the same Pillow and NumPy. Existing photos are drawn
    again, each replaced in one step, so a call repairs what an interrupted one left.

    Args:
        root: created if missing.
        images_per_class: the frames of one full turn.
        seed: of the skins and of the noise.

    Returns:
        The class names, in alphabetical order.

    Raises:
        OSError: a folder or file cannot be written.
    """
    for number, (name, make) in enumerate(_FRUITS.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, number])
        fruit = make()
        skin = fruit.skin(rng).clip(0, 255).astype(np.float32)
        for frame in range(images_per_class):
            photo = _draw_frame(fruit, skin, frame / images_per_class, rng)
            buffer = io.BytesIO()
            photo.save(buffer, "JPEG", quality=90)
            path = folder / f"{frame}_{SIDE}.jpg"
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(buffer.getvalue())
            os.replace(part, path)
    return list(_FRUITS)


def _draw_frame(fruit: Fruit, skin: Floats, turn: float, rng: np.random.Generator) -> Image.Image:
    """One frame, 100 x 100 RGB. `turn` is from 0 to 1."""
    body, angle = fruit.body, 2 * pi * turn
    rows = (body.along * (_ROWS - 1)).astype(np.intp)
    columns = ((body.around + turn) * _COLUMNS).astype(np.intp) % _COLUMNS
    colour = skin[rows, columns]

    light = np.array([-0.45 + 0.12 * sin(angle), -0.55 + 0.08 * cos(angle), 0.7])
    light /= np.linalg.norm(light)
    half = light + np.array([0, 0, 1])  # halfway to the viewer: Blinn's highlight
    half /= np.linalg.norm(half)
    diffuse = (body.normal @ light.astype(np.float32)).clip(0, 1)
    highlight = (body.normal @ half.astype(np.float32)).clip(0, 1) ** np.float32(40) * (255 * fruit.gloss)
    lit = colour * (0.45 + 0.65 * diffuse)[:, None] + highlight[:, None]

    pixels = np.full((_CANVAS, _CANVAS, 3), 255, np.uint8)
    pixels[body.covered] = lit.clip(0, 255).astype(np.uint8)
    canvas = Image.fromarray(pixels)
    if fruit.extras:
        fruit.extras(ImageDraw.Draw(canvas), angle)
    lean = fruit.tilt + fruit.swing * sin(angle)
    canvas = canvas.rotate(lean, Image.Resampling.BILINEAR, fillcolor="white")
    small = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    # Fruits-360 has the background cut out: the noise of the camera is on the fruit alone.
    noise = rng.normal(0, 2.0, small.shape) * (small.min(axis=2, keepdims=True) < 250)
    return Image.fromarray((small + noise).clip(0, 255).astype(np.uint8))


# Bodies. Coordinates are in units of half the canvas, x to the right, y down, z toward the viewer.


def _grid() -> tuple[Floats, Floats]:
    axis = (np.arange(_CANVAS) + 0.5) / (_CANVAS / 2) - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def _unit(x: Floats, y: Floats, z: Floats) -> Floats:
    vectors = np.stack([x, y, z], axis=-1)
    units: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units.astype(np.float32)


def _ball(radius: float, lean: float) -> Body:
    """A ball whose pole leans toward the viewer, by `lean` radians from upright; it turns about the pole."""
    x, y = _grid()
    covered = np.hypot(x, y) < radius
    x, y = x[covered] / radius, y[covered] / radius
    z = np.sqrt(1 - x**2 - y**2)
    up = -y * cos(lean) + z * sin(lean)
    front = y * sin(lean) + z * cos(lean)
    return Body(
        covered=covered,
        along=np.arccos(up.clip(-1, 1)) / pi,
        around=np.arctan2(x, front) / (2 * pi),
        normal=_unit(x, y, z),
    )


def _turned(half_width: Callable[[Floats], Floats], height: float, notch: float = 0.0) -> Body:
    """A solid of revolution about the vertical: `half_width` of -1 (top) to 1, `height` half its height.

    `notch` dents the top and, less, the bottom, as in an apple.
    """
    x, y = _grid()
    y = y / height
    y = y + notch * np.exp(-((x / 0.3) ** 2)) * np.where(y < 0, y, 0.4 * y)
    width = np.where(np.abs(y) < 1, half_width(y.clip(-1, 1)), 0)
    covered = np.abs(x) < width
    x, y, width = x[covered], y[covered], width[covered]
    across = x / width
    step = 1e-3
    slope = (half_width((y + step).clip(-1, 1)) - half_width((y - step).clip(-1, 1))) / (2 * step * height)
    toward = np.sqrt(1 - across**2)
    return Body(
        covered=covered,
        along=(y + 1) / 2,
        around=np.arcsin(across) / (2 * pi),
        normal=_unit(across, -slope, toward),
    )


def _bent(radius: float, spread: float, thickness: Callable[[Floats], Floats]) -> Body:
    """A round bar bent into an arc of `spread` radians either side of the bottom of a circle."""
    x, y = _grid()
    y = y + 0.62 * radius
    along = np.arctan2(x, y) / spread
    thick = np.where(np.abs(along) < 1, thickness(along.clip(-1, 1)), 0)
    out = np.hypot(x, y) - radius
    covered = np.abs(out) < thick
    x, y, along, across = x[covered], y[covered], along[covered], (out / np.maximum(thick, 1e-9))[covered]
    length = np.hypot(x, y)
    normal = _unit(across * x / length, across * y / length, np.sqrt(1 - across**2))
    return Body(covered=covered, along=(along + 1) / 2, around=np.arcsin(across) / (2 * pi), normal=normal)


def _cut_face(radius: float) -> Body:
    """The flat side of a halved fruit: along is the distance from the middle."""
    x, y = _grid()
    distance = np.hypot(x, y * 1.06)
    covered = distance < radius
    x, y, along = x[covered], y[covered], distance[covered] / radius
    rim = ((along - 0.88) / 0.12).clip(0, 1) ** 2
    return Body(
        covered=covered,
        along=along,
        around=np.arctan2(x, y) / (2 * pi),
        normal=_unit(x * rim * 2, y * rim * 2, 1 - 0.7 * rim),
    )


# Skins.


def _surface() -> tuple[Floats, Floats]:
    """Along (0 to 1) as a column and around (radians) as a row, to be broadcast into a skin."""
    return np.linspace(0, 1, _ROWS)[:, None], np.linspace(0, 2 * pi, _COLUMNS, endpoint=False)[None, :]


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Smooth noise, about -1 to 1, with `rows` x `columns` bumps; seamless around the fruit."""
    bumps = rng.normal(0, 0.6, (rows, columns)).astype(np.float32)
    wide = Image.fromarray(np.hstack([bumps] * 3))
    smooth = wide.resize((3 * _COLUMNS, _ROWS), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float64)[:, _COLUMNS : 2 * _COLUMNS]


def _specks(rng: np.random.Generator, count: int, radius: float) -> Floats:
    """Round specks, 0 to 1, of a `radius` in skin pixels."""
    along, around = np.mgrid[0:_ROWS, 0:_COLUMNS]
    specks = np.zeros((_ROWS, _COLUMNS))
    reach = int(3 * radius) + 1
    for _ in range(count):
        # Clear of the left and right edge, where a speck would be cut.
        row, column = rng.uniform(reach, _ROWS - reach), rng.uniform(reach, _COLUMNS - reach)
        window = np.s_[int(row) - reach : int(row) + reach, int(column) - reach : int(column) + reach]
        square = (along[window] - row) ** 2 + (around[window] - column) ** 2
        np.maximum(specks[window], np.exp(-square / radius**2), out=specks[window])
    return specks


def _mix(*layers: tuple[tuple[int, int, int], Floats | float]) -> Floats:
    """Paint the layers over each other: each a colour and its cover, 0 to 1."""
    skin = np.zeros((_ROWS, _COLUMNS, 3))
    for colour, cover in layers:
        share = np.broadcast_to(np.clip(cover, 0, 1), (_ROWS, _COLUMNS))[..., None]
        skin = skin * (1 - share) + np.array(colour) * share
    return skin


def _apple_skin(rng: np.random.Generator) -> Floats:
    along, _ = _surface()
    return _mix(
        ((186, 22, 34), 1.0),
        ((232, 176, 70), 0.75 * _noise(rng, 3, 40) * (1.15 - along)),
        ((222, 190, 84), np.exp(-((along / 0.16) ** 2)) * 0.8),
        ((120, 8, 22), 0.5 * _noise(rng, 4, 6)),
        ((240, 200, 150), 0.6 * _specks(rng, 260, 1.3)),
    )


def _banana_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    ends = np.maximum(np.exp(-((along / 0.05) ** 2)), np.exp(-(((1 - along) / 0.035) ** 2)))
    green = np.exp(-((along / 0.14) ** 2)) + 0.7 * np.exp(-(((1 - along) / 0.1) ** 2))
    return _mix(
        ((246, 208, 56), 1.0),
        ((206, 160, 30), 0.6 * np.cos(2.5 * around) ** 12),
        ((176, 178, 62), 0.7 * green),
        ((116, 72, 28), 0.8 * _specks(rng, 70, 2.2)),
        ((92, 60, 30), ends),
    )


def _blueberry_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    teeth = 0.12 + 0.075 * np.abs(np.cos(2.5 * around))
    return _mix(
        ((62, 76, 132), 1.0),
        ((146, 162, 206), 0.35 + 0.5 * _noise(rng, 8, 14)),
        ((34, 38, 84), 0.7 * _noise(rng, 10, 16)),
        ((40, 40, 78), 10 * (teeth - along) * (along < teeth) + 0.5 * (along < teeth)),
        ((24, 20, 40), 25 * (0.11 - along)),
    )


def _kiwi_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    rays = 0.5 + 0.5 * np.cos(34 * around + 2 * _noise(rng, 2, 12))
    skin = _mix(
        ((124, 178, 46), 1.0),
        ((190, 220, 104), rays * np.exp(-(((along - 0.42) / 0.2) ** 2))),
        ((84, 144, 30), ((along - 0.55) / 0.4).clip(0, 0.8)),
        ((238, 236, 190), 14 * (0.25 + 0.02 * np.cos(9 * around) - along)),
    )
    seeds = np.zeros((_ROWS, _COLUMNS))
    for number in range(38):
        middle = 2 * pi * (number + rng.uniform(0.2, 0.8)) / 38
        far = rng.uniform(0.33, 0.47)
        seed = ((along - far) / 0.045) ** 2 + ((around - middle) * far / 0.022) ** 2
        seeds = np.maximum(seeds, (1.6 - seed).clip(0, 1))
    fuzz = np.array((122, 88, 48)) * (1 + 0.25 * _noise(rng, 60, 120))[..., None]
    peel = (along > 0.93)[..., None]
    dark = seeds[..., None]
    return np.where(peel, fuzz, skin * (1 - dark) + np.array((28, 22, 16)) * dark)


def _lemon_skin(rng: np.random.Generator) -> Floats:
    along, _ = _surface()
    tips = np.exp(-((along / 0.07) ** 2)) + np.exp(-(((1 - along) / 0.05) ** 2))
    return _mix(
        ((250, 218, 40), 1.0),
        ((204, 164, 14), 0.45 * _specks(rng, 1100, 2.4)),
        ((255, 238, 120), 0.5 * _noise(rng, 4, 6)),
        ((168, 164, 50), 0.75 * tips),
    )


def _orange_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    star = 0.055 + 0.02 * np.cos(5 * around)
    return _mix(
        ((240, 128, 18), 1.0),
        ((196, 88, 6), 0.55 * _specks(rng, 2200, 2.3)),
        ((255, 164, 50), 0.5 * _noise(rng, 4, 6)),
        ((200, 120, 20), 0.7 * np.exp(-(((along - 0.1) / 0.035) ** 2)) * np.cos(4 * around) ** 2),
        ((104, 124, 42), 40 * (star - along)),
        ((74, 60, 30), 60 * (0.025 - along)),
    )


def _pear_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    blush = np.exp(-((np.angle(np.exp(1j * (around - 2.0))) / 0.9) ** 2)) * (along > 0) * along
    return _mix(
        ((190, 200, 70), 1.0),
        ((150, 178, 52), 0.6 * _noise(rng, 4, 6)),
        ((208, 120, 52), 0.75 * blush),
        ((122, 106, 42), 0.75 * _specks(rng, 520, 1.4)),
        ((150, 120, 60), 0.8 * np.exp(-((along / 0.06) ** 2))),
        ((96, 72, 40), np.exp(-(((1 - along) / 0.025) ** 2))),
    )


def _watermelon_skin(rng: np.random.Generator) -> Floats:
    along, around = _surface()
    ragged = around + 0.10 * _noise(rng, 26, 8) + 0.05 * _noise(rng, 60, 40)
    stripes = (0.5 + 2.2 * (np.cos(11 * ragged) - 0.15)).clip(0, 1)
    return _mix(
        ((150, 190, 92), 1.0),
        ((196, 214, 130), 0.5 * _noise(rng, 40, 90)),
        ((26, 84, 34), stripes),
        ((14, 56, 24), stripes * _noise(rng, 30, 60)),
        ((190, 180, 100), 0.9 * np.exp(-((along / 0.03) ** 2))),
    )


# Extras.


def _scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [((x + 1) * _CANVAS / 2, (y + 1) * _CANVAS / 2) for x, y in points]


def _stem(draw: ImageDraw.ImageDraw, bottom: float, top: tuple[float, float], width: int) -> None:
    line = _scaled([(0.0, bottom), top])
    draw.line(line, fill=(84, 56, 32), width=width)
    draw.line([(x - width / 4, y) for x, y in line], fill=(140, 104, 64), width=max(1, width // 3))


def _leaf(draw: ImageDraw.ImageDraw, base: tuple[float, float], length: float, reach: float) -> None:
    """A leaf of `length`, foreshortened to `reach` (-1 to 1) as it turns about the stem."""
    x, y = base
    steps = np.linspace(0, 1, 24)
    bulge = 0.3 * length * np.sin(pi * steps)
    ribs = [(x + reach * length * s, y - 0.45 * length * s) for s in steps.tolist()]
    over = [(px, py - b) for (px, py), b in zip(ribs, bulge.tolist(), strict=True)]
    under = [(px, py + 0.6 * b) for (px, py), b in zip(ribs, bulge.tolist(), strict=True)]
    draw.polygon(_scaled(over + ribs[::-1]), fill=(86, 150, 52))
    draw.polygon(_scaled(under + ribs[::-1]), fill=(58, 118, 40))
    draw.line(_scaled(ribs), fill=(150, 190, 100), width=3)


def _apple_extras(draw: ImageDraw.ImageDraw, angle: float) -> None:
    _stem(draw, -0.56, (0.07 + 0.06 * cos(angle), -0.93), 11)
    _leaf(draw, (0.03, -0.68), 0.46, cos(angle))


def _pear_extras(draw: ImageDraw.ImageDraw, angle: float) -> None:
    _stem(draw, -0.78, (0.05 + 0.06 * cos(angle), -0.97), 12)


def _apple_width(y: Floats) -> Floats:
    width: Floats = 0.80 * np.sqrt(1 - y**2) ** 0.8 * (1 - 0.13 * y)
    return width


def _lemon_width(y: Floats) -> Floats:
    body: Floats = 0.52 * (1 - (y / 0.92).clip(-1, 1) ** 2) ** 0.8 + 0.11 * np.sqrt(1 - y**2)
    return body


def _pear_width(y: Floats) -> Floats:
    width: Floats = np.sqrt(1 - y**2) ** 0.8 * (0.5 + 0.21 * np.tanh((y + 0.12) / 0.34))
    return width


def _watermelon_width(y: Floats) -> Floats:
    width: Floats = 0.70 * np.sqrt(1 - y**2) ** 0.9
    return width


def _banana_thickness(along: Floats) -> Floats:
    body = 0.24 * (1 - np.abs(along) ** 3.2) ** 0.6
    stalk = 0.055 * (along < -0.5) + 0.035 * (along > 0.5)
    return np.maximum(body, stalk)


_FRUITS: dict[str, Callable[[], Fruit]] = {
    "Apple Red": lambda: Fruit(
        body=_turned(_apple_width, 0.80, 0.28), skin=_apple_skin, extras=_apple_extras
    ),
    "Banana": lambda: Fruit(
        body=_bent(0.86, 1.12, _banana_thickness), skin=_banana_skin, gloss=0.15, tilt=14, swing=24
    ),
    "Blueberry": lambda: Fruit(body=_ball(0.80, 1.05), skin=_blueberry_skin, gloss=0.12),
    "Kiwi": lambda: Fruit(body=_cut_face(0.86), skin=_kiwi_skin, gloss=0.05),
    "Lemon": lambda: Fruit(body=_turned(_lemon_width, 0.92), skin=_lemon_skin, gloss=0.3, tilt=62, swing=14),
    "Orange": lambda: Fruit(body=_ball(0.84, 0.75), skin=_orange_skin, gloss=0.25),
    "Pear": lambda: Fruit(
        body=_turned(_pear_width, 0.86), skin=_pear_skin, extras=_pear_extras, gloss=0.25, swing=8
    ),
    "Watermelon": lambda: Fruit(
        body=_turned(_watermelon_width, 0.90), skin=_watermelon_skin, gloss=0.3, tilt=74
    ),
}
