"""The banner that is burned into a panel, so that nobody takes it for an acquired image.

What crosses the hospital's boundary: nothing; a panel is a picture of a patient.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BANNER = "COUNTERFACTUAL - NOT AN ACQUIRED IMAGE"
NATURE = "AI-generated counterfactual, not an acquired image"

RED, WHITE, DARK = (170, 0, 20), (255, 255, 255), (40, 40, 40)


def with_banner(panel: bytes, lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return a PNG as `[H, W, 3] uint8` under the banner and the given lines.

    A line that is too long for the picture is shortened.
    """
    picture = Image.open(io.BytesIO(panel)).convert("RGB")
    width = picture.width
    large, small = max(width / 32, 9.0), max(width / 58, 9.0)
    rows = [(BANNER, large, RED, WHITE), *((line, small, WHITE, DARK) for line in lines)]
    heights = [round(size * 1.7) for _, size, *_ in rows]
    page = Image.new("RGB", (width, picture.height + sum(heights)), WHITE)
    draw, top = ImageDraw.Draw(page), 0
    for (text, size, ground, ink), height in zip(rows, heights, strict=True):
        font = ImageFont.load_default(size=size)
        draw.rectangle((0, top, width, top + height), fill=ground)
        middle = (width / 2, top + height / 2)
        draw.text(middle, _shortened(text, font, width), fill=ink, font=font, anchor="mm")
        top += height
    page.paste(picture, (0, top))
    return np.asarray(page)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    shown = text
    while font.getlength(shown) > 0.98 * width:
        shown = f"{shown[:-4]}..."
    return shown
