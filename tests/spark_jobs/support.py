"""Helpers that several tests of the jobs share."""

import numpy as np
from PIL import Image


def noise(size: tuple[int, int] = (100, 100), seed: int = 3) -> Image.Image:
    """An RGB picture of random pixels."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )
