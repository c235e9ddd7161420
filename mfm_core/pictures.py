"""Explanations and reconstructions as PNG bytes, for a radiologist and for a report.

Blue is darker and orange is brighter, over grey anatomy; no picture shows a patient's number or a
file's name. Source: paper figures 2 and 3. What crosses the hospital's boundary: nothing; these
are pictures of patients (or of phantoms).
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mfm_core.animation import draw_sweep_gif
from mfm_core.drawing import DPI, FADED, INK, STYLE, encode_png
from mfm_core.question import Explanation
from mfm_core.reconstruction import Reconstruction
from mfm_core.sweep import Floats, Pixels, Sweep, describe, percent, signed, title_of

__all__ = (
    "draw_attention",
    "draw_class_means",
    "draw_methods",
    "draw_reconstructions",
    "draw_sweep",
    "draw_sweep_gif",
)

TILE, GAP, CAPTION, HEADER = 1.62, 0.14, 0.5, 0.34
"""Inches: side of a picture, space between, space under, space of a row's heading."""

COLUMNS = 4
BRIGHTER, DARKER = (230, 120, 0), (0, 125, 215)

METHOD_NAMES = {
    "class_shift": "Class shift",
    "counterfactual": "Smallest change",
    "located_change": "Located change",
    "latent_gradient": "Latent gradient",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
}
"""What a reader calls each method."""


def draw_sweep(sweep: Sweep) -> bytes:
    """Return one panel: question, original, redrawing, difference map, curve and frames as PNG.

    The frames of each direction start beside alpha 0 and move away from it. The probability
    under a frame is the re-encoded one.
    """
    steps = [_pick(sweep.alphas, -1), _pick(sweep.alphas, +1)]
    rows = 1 + sum(bool(len(row)) for row in steps)
    text = [fill(title_of(sweep), 62), fill(" ".join(describe(sweep)), 94)]
    lines = 1.35 * (text[0].count("\n") + 1) + text[1].count("\n") + 1
    top = 0.2 + 0.19 * lines
    width = COLUMNS * TILE + (COLUMNS + 1) * GAP
    height = top + rows * (TILE + CAPTION + HEADER) + 0.05
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        figure.text(GAP / width, 1 - 0.1 / height, text[0], va="top", weight="bold", size=13)
        below = 0.16 + 0.24 * (text[0].count("\n") + 1)
        figure.text(GAP / width, 1 - below / height, text[1], va="top", size=10, linespacing=1.3)
        _draw_first_row(figure, sweep, top)
        words = (f"Away from “{sweep.target}”  ▸", f"Towards “{sweep.target}”  ▸")
        drawn = [(word, row) for word, row in zip(words, steps, strict=True) if len(row)]
        for number, (word, row) in enumerate(drawn, start=1):
            y = top + number * (TILE + CAPTION + HEADER)
            _heading(figure, word, y)
            for column, position in enumerate(row):
                _draw_frame(figure, sweep, int(position), (column, y))
        return encode_png(figure)


def draw_methods(explanations: Sequence[Explanation], original: Pixels | None = None) -> bytes:
    """Return the maps of several methods over one image, side by side, as PNG.

    Args:
        explanations: of one image and one question, at least one.
        original: `[C, H, W] float32 in [0, 1]` shown under the maps; None is the explained image.
    """
    image = explanations[0].image if original is None else original
    rows = -(-(len(explanations) + 1) // COLUMNS)
    title = fill(f"Where the methods look: {explanations[0].question.words}", 62)
    top = 0.2 + 0.26 * (title.count("\n") + 1)
    width = COLUMNS * TILE + (COLUMNS + 1) * GAP
    height = top + rows * (TILE + CAPTION + GAP) + 0.42
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        figure.text(GAP / width, 1 - 0.1 / height, title, va="top", weight="bold", size=13)
        _tile(figure, (0, top - HEADER), image).set_xlabel("Original\n", size=9.5, color=INK)
        for number, explanation in enumerate(explanations, start=1):
            row, column = divmod(number, COLUMNS)
            place = (column, top - HEADER + row * (TILE + CAPTION + GAP))
            saliency = explanation.saliency
            scale = float(np.quantile(saliency, 0.998)) or float(saliency.max()) or 1.0
            axes = _tile(figure, place, overlay(saliency, image.mean(axis=0), scale))
            axes.set_xlabel(_caption(explanation), size=9.5, color=INK)
        note = fill(
            "Orange counts most; each map has its own scale. Drawing methods show what would "
            "change, Grad-CAM and integrated gradients what the answer rests on.",
            104,
        )
        figure.text(GAP / width, 0.08 / height, note, va="bottom", size=9, color=FADED)
        return encode_png(figure)


def _caption(explanation: Explanation) -> str:
    """Return the method and whether its drawing turns the answer."""
    name = METHOD_NAMES.get(explanation.method, explanation.method)
    if explanation.sweep is None:
        empty = not explanation.saliency.any()
        return f"{name}\n{'marks nothing' if empty else 'draws no picture'}"
    flip = explanation.sweep.score.flip_alpha
    return f"{name}\n{'answer stays' if flip is None else f'answer turns at {signed(flip)}'}"


def draw_reconstructions(rows: Sequence[Reconstruction]) -> bytes:
    """Return a grid, one image a row: original, damaged input, reconstruction, residual."""
    names = ("Original", "Input with noise", "Reconstruction", "Residual")
    width = COLUMNS * TILE + (COLUMNS + 1) * GAP
    height = HEADER + len(rows) * (TILE + GAP) + 0.3
    residuals = [(row.reconstruction - row.original).mean(axis=0) for row in rows]
    scale = max(float(np.quantile(np.abs(residuals), 0.995)), 0.05)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        for number, (row, residual) in enumerate(zip(rows, residuals, strict=True)):
            shown = overlay(residual, np.zeros_like(residual), scale)
            tiles = (row.original, row.input, row.reconstruction, shown)
            for column, (name, tile) in enumerate(zip(names, tiles, strict=True)):
                axes = _tile(figure, (column, number * (TILE + GAP)), tile, smooth=False)
                axes.set_title(name if number == 0 else "", size=11.5, weight="bold", pad=5)
        note = f"Residual: orange brighter, blue darker, black equal; full colour at ±{scale:.2f}"
        figure.text(GAP / width, 0.08 / height, note, va="bottom", size=10, color=FADED)
        return encode_png(figure)


def draw_class_means(means: Pixels, classes: Sequence[str]) -> bytes:
    """Return what the model draws for each class's mean latent; `means` is `[K, C, H, W]`."""
    drawn = [(n, m) for n, m in zip(classes, means, strict=True) if np.isfinite(m).all()]
    columns = min((4, 5), key=lambda c: (-len(drawn) % c, -c))
    side = (COLUMNS * (TILE + GAP) - columns * GAP) / columns
    width = COLUMNS * TILE + (COLUMNS + 1) * GAP
    height = GAP + -(-len(drawn) // columns) * (side + CAPTION)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        for number, (name, mean) in enumerate(drawn):
            row, column = divmod(number, columns)
            left = (GAP + column * (side + GAP)) / width
            bottom = 1 - (GAP + row * (side + CAPTION) + side) / height
            axes = figure.add_axes((left, bottom, side / width, side / height))
            _show(axes, mean, smooth=True)
            axes.set_xlabel(fill(name, 15), size=11.5, color=INK)
        return encode_png(figure)


def draw_attention(maps: NDArray[np.float32], anatomy: Pixels | None) -> bytes:
    """Return which pixels counted more and which less in either stage of the training, as PNG.

    Args:
        maps: `[2, H, W]`, about 1 on average where the loss looks; stage one, stage two.
        anatomy: `[C, H, W] in [0, 1]` to see where that is, e.g. the mean of the class means.
    """
    change = (maps - 1.0).astype(np.float32)
    scale = max(float(np.quantile(np.abs(change), 0.995)), 0.05)
    nothing = np.zeros_like(change[0])
    tiles = [(f"Weight, stage {n + 1}", overlay(change[n], nothing, scale)) for n in (0, 1)]
    if anatomy is not None:
        grey = anatomy.mean(axis=0)
        tiles = [("Mean image", np.repeat(grey[..., None], 3, axis=-1)), *tiles]
        tiles.append(("Stage 2 on it", overlay(change[1], grey, scale)))
    width = COLUMNS * TILE + (COLUMNS + 1) * GAP
    height = HEADER + TILE + 0.55
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        for column, (name, tile) in enumerate(tiles):
            axes = _tile(figure, (column, 0), tile, smooth=False)
            axes.set_title(name, size=11.5, weight="bold", pad=5)
        spans = [f"{maps[n].min():.2f} to {maps[n].max():.2f}" for n in (0, 1)]
        note = (
            f"Orange counts more than 1 (full colour {1 + scale:.2f}), blue less "
            f"({1 - scale:.2f}), black as much.\nStage 1: {spans[0]}; stage 2: {spans[1]}. "
            "The border has no part; no patient is shown."
        )
        figure.text(GAP / width, 0.08 / height, note, va="bottom", size=10, color=FADED)
        return encode_png(figure)


def _pick(alphas: Floats, sign: int) -> NDArray[np.int64]:
    """Return at most COLUMNS positions on one side of 0, from the nearest to the farthest."""
    side = np.flatnonzero(np.sign(alphas) == sign)[::sign]
    if len(side) <= COLUMNS:
        return side
    chosen: NDArray[np.int64] = side[np.linspace(0, len(side) - 1, COLUMNS).round().astype(int)]
    return chosen


def _draw_first_row(figure: Figure, sweep: Sweep, y: float) -> None:
    change = sweep.difference
    scale = max(float(np.abs(change).max()), 0.05)
    _heading(figure, "Start", y)
    said = sweep.probabilities_direct[sweep.zero]
    _tile(figure, (0, y), sweep.original).set_xlabel(
        f"Original\n{sweep.target} {percent(float(said[sweep.target_index]))}", size=9.5, color=INK
    )
    probability = float(sweep.probabilities_reencoded[sweep.zero, sweep.target_index])
    _tile(figure, (1, y), sweep.reconstruction).set_xlabel(
        f"Redrawn, step 0\n{sweep.target} {percent(probability)}", size=9.5, color=INK
    )
    _tile(figure, (2, y), overlay(change, sweep.reconstruction.mean(axis=0), scale)).set_xlabel(
        f"Changed at step {signed(sweep.shown_alpha)}", size=9.5, color=INK
    )
    _draw_scale(figure, scale, y)
    _draw_curve(figure, sweep, y)


def _draw_frame(figure: Figure, sweep: Sweep, position: int, place: tuple[int, float]) -> None:
    axes = _tile(figure, place, sweep.images[position])
    alpha = float(sweep.alphas[position])
    probability = float(sweep.probabilities_reencoded[position, sweep.target_index])
    says = sweep.says(position)
    if not sweep.supported[position]:
        axes.spines[:].set(visible=True, color=FADED, linewidth=1.4, linestyle=(0, (3, 2)))
    axes.set_xlabel(
        f"step {signed(alpha)}: {percent(probability)}\nread as {says}",
        size=9.5,
        color=INK,
        weight="bold" if says == sweep.target else "normal",
    )


def _draw_scale(figure: Figure, scale: float, y: float) -> None:
    """Draw the legend of the difference map under it."""
    width, height = figure.get_size_inches()
    left = (GAP + 2 * (TILE + GAP)) / width
    bottom = 1 - (y + HEADER + TILE + 0.32) / height
    axes = figure.add_axes((left, bottom, TILE / width, 0.09 / height))
    ramp = np.linspace(-scale, scale, 128, dtype=np.float32)[None]
    axes.imshow(overlay(ramp, np.full_like(ramp, 0.5), scale), aspect="auto")
    axes.set_xticks([0, 127], [f"−{scale:.2f} darker", f"brighter +{scale:.2f}"], size=8)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[1].set_horizontalalignment("right")
    axes.tick_params(length=0, pad=2)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_curve(figure: Figure, sweep: Sweep, y: float) -> None:
    width, height = figure.get_size_inches()
    left = GAP + 3 * (TILE + GAP) + 0.36
    size = ((TILE - 0.36) / width, (TILE - 0.1) / height)
    axes = figure.add_axes((left / width, 1 - (y + HEADER + TILE) / height, *size))
    column = sweep.target_index
    direct, again = sweep.probabilities_direct, sweep.probabilities_reencoded
    axes.plot(sweep.alphas, direct[:, column], color=FADED, ls=":", lw=1.4, label="direct")
    axes.plot(sweep.alphas, again[:, column], color="#0072B2", marker="o", ms=3, label="redrawn")
    axes.axvline(sweep.shown_alpha, color="#D55E00", lw=1, ls="--")
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"], size=8)
    axes.set_xticks(np.unique([sweep.alphas[0], 0, sweep.alphas[-1]]))
    axes.tick_params(labelsize=8, length=2, pad=2)
    axes.set_xlabel("step (alpha)", size=9.5)
    axes.set_title(f"P({sweep.target})"[:22], size=9.5, pad=3)
    axes.legend(fontsize=7.5, frameon=False, handlelength=1.3, borderaxespad=0.1)
    axes.spines[["top", "right"]].set_visible(False)


def _heading(figure: Figure, text: str, y: float) -> None:
    width, height = figure.get_size_inches()
    place = (GAP / width, 1 - (y + HEADER - 0.07) / height)
    figure.text(*place, text, va="bottom", size=11, weight="bold", color=INK)


def _tile(
    figure: Figure, place: tuple[int, float], picture: NDArray[np.float32], smooth: bool = True
) -> Axes:
    """Add one square picture at (column, inches from the top)."""
    width, height = figure.get_size_inches()
    column, y = place
    left = (GAP + column * (TILE + GAP)) / width
    bottom = 1 - (y + HEADER + TILE) / height
    axes = figure.add_axes((left, bottom, TILE / width, TILE / height))
    _show(axes, picture, smooth)
    return axes


def _show(axes: Axes, picture: NDArray[np.float32], smooth: bool) -> None:
    """Fill the axes with a picture, `[C, H, W]` or `[H, W, 3]`; black is 0 and white is 1."""
    shown = picture if picture.shape[-1] == 3 else np.moveaxis(picture, 0, -1)
    if shown.shape[-1] == 1:
        shown = np.repeat(shown, 3, axis=-1)
    axes.imshow(np.clip(shown, 0, 1), interpolation="bicubic" if smooth else "nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def overlay(
    difference: NDArray[np.float32], anatomy: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Return `[H, W, 3] in [0, 1]`: blue and orange, as strong as the change, over grey anatomy."""
    strength = np.clip((np.abs(difference) / scale - 0.08) / 0.92, 0, 1)[..., None]
    colour = np.where(difference[..., None] > 0, BRIGHTER, DARKER) / 255.0
    grey = np.clip(anatomy, 0, 1)[..., None] * 0.85
    mixed: NDArray[np.float32] = (grey * (1 - strength) + colour * strength).astype(np.float32)
    return mixed
