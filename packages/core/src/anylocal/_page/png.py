"""Pixels as the data URL of a PNG."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from anylocal._drawing.image import Pixels


def data_url(pixels: Pixels, most: int | None = None) -> str:
    """Return pixels between 0 and 1 as a PNG, made smaller where a side has more than `most`."""
    file = io.BytesIO()
    image = Image.fromarray(np.rint(255 * np.asarray(pixels)).astype(np.uint8))
    if most is not None:
        image.thumbnail((most, most))
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
