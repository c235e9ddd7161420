"""The finished result of moving one image along one class axis, and its difference map.

Made by `explanation`, drawn by `pictures`. Source: paper section 2.5.2.
What crosses the hospital's boundary: nothing; every array here is a picture of a patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfm_core.errors import DataError
from mfm_core.faithfulness import CurveScore, score_curve

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

VISIBLE = 0.02
"""A change of a pixel in [0, 1] that counts as visible (5 of 255 grey levels). Ours."""


@dataclass(frozen=True)
class Sweep:
    """One image moved along one class axis. K classes, A alphas that rise and hold 0.

    Attributes:
        target: the class that alpha > 0 moves towards.
        versus: the class it moves away from; None is all others.
        classes: the names of the K classes, in label order.
        alphas: `[A] float64`.
        images: `[A, C, H, W] float32 in [0, 1]`, the decoded frames.
        probabilities_direct: `[A, K] float64`, head on the moved latent itself.
        probabilities_reencoded: `[A, K] float64`, the frame encoded and judged again.
        log_odds: `[A] float64`, of the target after encoding again; ranks steps where the
            probability has reached 1 in floating point.
        original: `[C, H, W] float32 in [0, 1]`.
        cycle: ||E(D(z)) - z|| / ||z||, 0 is best.
        ssim: SSIM of the original and its reconstruction.
        supported: `[A] bool`, whether the latent lies where the decoder was trained (the rule is
            in `latent_path`); a picture outside is invented.
        attribute: None where `classes` are classes; the attribute where they are its values.
        findings: the names of the model's F classes.
        readings: `[A, F] float64`, what the model's head says to the frame encoded again.
    """

    target: str
    versus: str | None
    classes: tuple[str, ...]
    alphas: Floats
    images: Pixels
    probabilities_direct: Floats
    probabilities_reencoded: Floats
    log_odds: Floats
    original: Pixels
    cycle: float
    ssim: float
    supported: NDArray[np.bool_]
    attribute: str | None
    findings: tuple[str, ...]
    readings: Floats

    @property
    def zero(self) -> int:
        """Position of alpha = 0."""
        return int(np.flatnonzero(self.alphas == 0.0)[0])

    @property
    def reconstruction(self) -> Pixels:
        """`[C, H, W] float32 in [0, 1]`, the frame at alpha = 0."""
        frame: Pixels = self.images[self.zero]
        return frame

    @property
    def target_index(self) -> int:
        """Label of the target."""
        return self.classes.index(self.target)

    def says(self, position: int) -> str:
        """Return the most probable class of one frame after encoding it again."""
        return self.classes[int(self.probabilities_reencoded[position].argmax())]

    @property
    def score(self) -> CurveScore:
        """How the target's re-encoded log odds (as monotone as its probability) follow alpha."""
        says_target = self.probabilities_reencoded.argmax(axis=1) == self.target_index
        return score_curve(self.alphas, self.log_odds, says_target)

    @property
    def shown_alpha(self) -> float:
        """The alpha that explains the answer: the flip, else the end towards the other answer."""
        flip = self.score.flip_alpha
        if flip is not None:
            return flip
        low, high = float(self.alphas[0]), float(self.alphas[-1])
        if self.says(self.zero) == self.target:
            return low if low < 0 else high
        return high if high > 0 else low

    @property
    def difference(self) -> Pixels:
        """`[H, W] float32 in [-1, 1]`, the difference map at `shown_alpha`."""
        return difference_map(self, self.shown_alpha)


@dataclass(frozen=True)
class DifferenceSummary:
    """A difference map in numbers. Positions are parts of the side, from the upper left.

    Attributes:
        alpha: the step the map was made at.
        mean_absolute: mean size of the change of a pixel, in grey levels of [0, 1].
        brighter_area: part of the picture that gets visibly brighter.
        darker_area: part that gets visibly darker.
        peak: the largest signed change.
        peak_row, peak_column: where it is, in [0, 1].
    """

    alpha: float
    mean_absolute: float
    brighter_area: float
    darker_area: float
    peak: float
    peak_row: float
    peak_column: float

    @property
    def place(self) -> str:
        """Where in the picture the largest change is, in words."""
        row = ("upper", "middle", "lower")[min(2, int(self.peak_row * 3))]
        column = ("left", "centre", "right")[min(2, int(self.peak_column * 3))]
        return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def difference_map(sweep: Sweep, alpha: float) -> Pixels:
    """Return the frame at `alpha` minus the frame at 0, mean over channels.

    Returns:
        `[H, W] float32 in [-1, 1]`; positive where the picture gets brighter.

    Raises:
        DataError: the sweep has no frame at this alpha.
    """
    at = np.flatnonzero(np.isclose(sweep.alphas, alpha))
    if not at.size:
        have = ", ".join(f"{step:g}" for step in sweep.alphas)
        raise DataError("difference map", [f"no frame at alpha {alpha:g}; choose one of {have}"])
    change: Pixels = (sweep.images[at[0]] - sweep.reconstruction).mean(axis=0)
    return change


def summarise_difference(sweep: Sweep) -> DifferenceSummary:
    """Return the numbers of the sweep's difference map."""
    change = sweep.difference
    row, column = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    return DifferenceSummary(
        alpha=sweep.shown_alpha,
        mean_absolute=float(np.abs(change).mean()),
        brighter_area=float((change > VISIBLE).mean()),
        darker_area=float((change < -VISIBLE).mean()),
        peak=float(change[row, column]),
        peak_row=float((row + 0.5) / change.shape[0]),
        peak_column=float((column + 0.5) / change.shape[1]),
    )


def percent(probability: float) -> str:
    """Return `97 %`, `<1 %` or `>99 %`: never a certainty that rounding made up."""
    if probability < 0.01:
        return "<1 %"
    return ">99 %" if probability > 0.99 else f"{probability * 100:.0f} %"


def signed(alpha: float) -> str:
    """Return `+0.4` or `−0.4`, with a real minus sign."""
    return f"{alpha:+.1f}".replace("-", "−")


def title_of(sweep: Sweep) -> str:
    """Return the question that the sweep answers."""
    rival = f" instead of {sweep.versus}" if sweep.versus else ""
    turned = sweep.says(sweep.zero) == sweep.target
    if sweep.attribute is not None:
        value = f"{sweep.attribute} “{sweep.target}”{rival}"
        start = "What would have to change for the image to stop looking like"
        return f"{start} {value}" if turned else f"What this image would look like with {value}"
    if turned:
        return f"What would have to change for the model to stop saying “{sweep.target}”{rival}"
    return f"What the model would have to see to say “{sweep.target}”{rival}"


def describe(sweep: Sweep) -> list[str]:
    """Return the sweep in plain sentences: the answer, what turns it, where, and how far to trust.

    What is said of an attribute is the atlas's own discriminant; the model's head has no word
    for it, and its answers along the way follow in a sentence of their own.
    """
    said = sweep.probabilities_direct[sweep.zero]
    first, start = sweep.classes[int(said.argmax())], sweep.says(sweep.zero)
    sure = percent(float(said.max()))
    lines = [f"The model reads this image as {first} ({sure})."]
    if sweep.attribute is not None:
        lines = [f"In the model's latent this image lies with {sweep.attribute} {first} ({sure})."]
    if start != first:
        lines.append(
            f"It reads its own redrawing as {start}: the drawing does not carry everything the "
            "answer rests on, so trust this explanation less."
        )
    flip = sweep.score.flip_alpha
    if flip is None:
        low, high = signed(sweep.alphas[0]), signed(sweep.alphas[-1])
        lines.append(f"No step between {low} and {high} turns the answer.")
    else:
        after = sweep.says(int(np.flatnonzero(sweep.alphas == flip)[0]))
        lines.append(f"At step {signed(flip)} the redrawn image is read as {after} instead.")
    change = summarise_difference(sweep)
    direction = "brighter" if change.peak > 0 else "darker"
    lines.append(
        f"The strongest change at step {signed(change.alpha)} is in the {change.place} of the "
        f"picture, where it gets {direction} by {abs(change.peak) * 100:.0f} % of full scale."
    )
    return lines + _findings(sweep) + _support(sweep)


def _findings(sweep: Sweep) -> list[str]:
    """Return what the model's own answer does along an attribute."""
    if sweep.attribute is None:
        return []
    said = [sweep.findings[label] for label in sweep.readings.argmax(axis=1)]
    start = said[sweep.zero]
    turned = [at for at, finding in enumerate(said) if finding != start]
    if not turned:
        return [f"The model's finding stays {start} at every step."]
    near = min(turned, key=lambda at: abs(sweep.alphas[at]))
    return [
        f"The model's finding turns from {start} to {said[near]} at step "
        f"{signed(sweep.alphas[near])}: it answers to the {sweep.attribute}, too."
    ]


def _support(sweep: Sweep) -> list[str]:
    """Return which frames lie where the decoder was not trained."""
    if not sweep.supported[sweep.zero]:
        return [
            "The image itself lies outside what the model was trained on; trust no frame of it."
        ]
    if sweep.supported.all():
        return []
    outside = ", ".join(signed(alpha) for alpha in sweep.alphas[~sweep.supported])
    return [f"Outside what the model was trained on (dashed): step {outside}."]
