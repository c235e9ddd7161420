"""A drawing of the groups on which the model errs more, marked as one that stays here.

What crosses the hospital's boundary: nothing; a centre is a mean of a few patients' latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mfm_core.slices import Slice

SIDE, LINE, GAP = 192, 16, 8
BANNER = "LOCAL: stays at this hospital. Drawings by a model, not images of a patient."


def draw_centres(drawn: NDArray[np.float32], slices: Sequence[Slice]) -> bytes:
    """Return a PNG of the decoded centres in a row, with counts below and a banner above.

    Args:
        drawn: `[S, C, H, W]` in [0, 1], S > 0.
        slices: the S groups.
    """
    import io

    width = max(len(slices) * (SIDE + GAP) + GAP, 8 * len(BANNER))
    sheet = Image.new("RGB", (width, SIDE + 4 * LINE + 3 * GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    pen.text((GAP, GAP // 2), BANNER, fill="#a11d1d", font=font)
    for place, (picture, row) in enumerate(zip(drawn, slices, strict=True)):
        left, top = GAP + place * (SIDE + GAP), LINE + GAP
        pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
        grey = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
        sheet.paste(Image.fromarray(grey).convert("RGB").resize((SIDE, SIDE)), (left, top))
        lines = (
            f"{row.label[:28]}, group {row.cluster}",
            f"{row.errors} of {row.n} wrong here",
            f"{row.other_errors} of {row.others} elsewhere",
        )
        pen.text((left, top + SIDE + 2), "\n".join(lines), fill="black", font=font)
    packed = io.BytesIO()
    sheet.save(packed, "PNG", optimize=True)
    return packed.getvalue()
