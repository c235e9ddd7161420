"""A sweep as a moving picture (GIF) that a radiologist can watch without any program.

It runs from one end to the other and back, for ever, and rests at the ends and at the unchanged
image. Each frame is labelled with its step and the probability after encoding it again, and says
that it was drawn by a model. Source: Cohen et al., 2021 (arXiv 2102.09475), who show latent
shifts so; the labels are ours. What crosses the hospital's boundary: nothing; the frames are
pictures of a patient.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mfm_core.sweep import Pixels, Sweep, percent, signed

MAX_GIF_BYTES = 1_000_000
"""Largest GIF; above it the pictures get smaller and coarser."""

STEP_MS, REST_MS = 220, 900
"""How long a frame stands, and how long where the eye should rest."""

SIZES = ((336, 96), (288, 64), (224, 48), (160, 32), (96, 16))
"""Side of the picture in pixels and number of tones, tried until the limit is met."""

INK, PAPER, FADED, ACCENT = (29, 39, 51), (255, 255, 255), (91, 103, 117), (213, 94, 0)
WIDTH = 336
BANNER = "drawn by a model, not an acquired image"


def draw_sweep_gif(sweep: Sweep) -> bytes:
    """Return the sweep as an endless GIF of at most MAX_GIF_BYTES."""
    content = b""
    order = _order(len(sweep.alphas))
    rests = {0, sweep.zero, len(sweep.alphas) - 1}
    times = [REST_MS if position in rests else STEP_MS for position in order]
    for side, tones in SIZES:
        cards = [_card(sweep, position, side) for position in range(len(sweep.alphas))]
        frames = _reduced(cards, tones)
        packed = io.BytesIO()
        first, *rest = [frames[position] for position in order]
        first.save(
            packed, "GIF", save_all=True, append_images=rest, duration=times, loop=0, disposal=1
        )
        content = packed.getvalue()
        if len(content) <= MAX_GIF_BYTES:
            break
    return content


def _order(count: int) -> list[int]:
    """Return the positions forth and back, neither end twice."""
    return [*range(count), *range(count - 2, 0, -1)]


def _card(sweep: Sweep, position: int, side: int) -> Image.Image:
    """Return one labelled frame; the picture in the middle has `side` pixels."""
    card = Image.new("RGB", (WIDTH, side + 92), PAPER)
    pen = ImageDraw.Draw(card)
    alpha = float(sweep.alphas[position])
    chance = percent(float(sweep.probabilities_reencoded[position, sweep.target_index]))
    picture = _picture(sweep.images[position], side)
    card.paste(picture, ((WIDTH - side) // 2, 22))
    pen.text((WIDTH / 2, 11), BANNER, FADED, _font(12), anchor="mm")
    asked = f"{sweep.attribute} {sweep.target}" if sweep.attribute else sweep.target
    step = f"step {signed(alpha)}" if alpha else "unchanged"
    words = _fitted(f"{step}:  {asked} {chance}", 15, bold=True)
    pen.text((WIDTH / 2, side + 36), words, INK, _font(15, bold=True), anchor="mm")
    outside = "" if sweep.supported[position] else "; outside training"
    words = _fitted(f"read as {sweep.says(position)}{outside}", 13)
    pen.text((WIDTH / 2, side + 56), words, ACCENT if outside else INK, _font(13), anchor="mm")
    _draw_slider(pen, sweep, alpha, side + 77)
    return card


def _draw_slider(pen: ImageDraw.ImageDraw, sweep: Sweep, alpha: float, y: int) -> None:
    """Draw where on the way this frame lies."""
    low, high = float(sweep.alphas[0]), float(sweep.alphas[-1])
    left, right = 52, WIDTH - 52

    def place(step: float) -> float:
        return left + (right - left) * (step - low) / (high - low)

    pen.line((left, y, right, y), FADED, 2)
    pen.line((place(0.0), y - 5, place(0.0), y + 5), FADED, 2)
    pen.ellipse((place(alpha) - 6, y - 6, place(alpha) + 6, y + 6), ACCENT)
    pen.text((left - 10, y), signed(low), FADED, _font(12), anchor="rm")
    pen.text((right + 10, y), signed(high), FADED, _font(12), anchor="lm")


def _picture(frame: Pixels, side: int) -> Image.Image:
    """Return `[C, H, W] float32 in [0, 1]` as an RGB picture of `side` pixels."""
    levels = np.moveaxis((np.clip(frame, 0, 1) * 255).round().astype(np.uint8), 0, -1)
    grey = levels.shape[2] == 1
    small = Image.fromarray(levels[..., 0] if grey else levels)
    return small.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")


def _reduced(cards: list[Image.Image], tones: int) -> list[Image.Image]:
    """Return the cards in one palette, so that nothing flickers: fitted colours or even greys."""
    strip = np.concatenate([np.asarray(card) for card in cards], axis=1)
    body = strip[22 : strip.shape[0] - 70]
    if int(np.ptp(body.astype(np.int16), axis=2).max()) <= 2:
        ramp = np.linspace(0, 255, tones).round()[:, None].repeat(3, axis=1)
    else:
        fitted = Image.fromarray(body).quantize(tones, Image.Quantize.MEDIANCUT).getpalette() or []
        ramp = np.reshape(fitted[: 3 * tones], (-1, 3)).astype(float)
    labels = [INK, PAPER, FADED, ACCENT]
    between = [tuple((np.array(label) + PAPER) / 2) for label in (INK, FADED, ACCENT)]
    colours = np.concatenate([ramp, np.array([*labels, *between])]).round().astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.tobytes())
    return [card.quantize(palette=palette, dither=Image.Dither.NONE) for card in cards]


def _fitted(text: str, size: int, bold: bool = False) -> str:
    """Return the text, cut short where it would not fit the card."""
    font = _font(size, bold)
    if font.getlength(text) <= WIDTH - 12:
        return text
    while font.getlength(f"{text}…") > WIDTH - 12:
        text = text[:-1]
    return f"{text}…"


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the typeface that comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
