"""What an explanation says, in numbers for programs and in words for the page.

Names neither patient nor file. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mfm_core.question import Asked, Explanation, Question
from mfm_core.sweep import Sweep, describe, percent, signed, summarise_difference, title_of

NOTE = "Research software, not a medical device. The frames are drawings by a model, not findings."

NAMES = {
    "class_shift": "moved along the axis between two means",
    "counterfactual": "smallest change that turns the answer",
    "located_change": "smallest change, marked where the image speaks for the answer",
    "latent_gradient": "moved along the latent gradient",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "all": "all methods side by side",
}
"""Every choice of --method, in words."""


def slug_of(question: Question, method: str) -> str:
    """Return the question and the method as a part of file names."""
    words = [question.attribute, question.value] if question.attribute else [question.target]
    slug = "-".join(_plain(str(word)) for word in words)
    if question.versus is not None:
        slug += f"-versus-{_plain(question.versus)}"
    return slug if method == "class_shift" else f"{slug}-{_plain(method)}"


def _plain(word: str) -> str:
    return re.sub(r"\W+", "-", word).strip("-").lower() or "x"


def main_of(explanations: Sequence[Explanation]) -> Explanation:
    """Return the first explanation that draws frames, or the first."""
    return next((each for each in explanations if each.sweep is not None), explanations[0])


def record_of(explanations: Sequence[Explanation], asked: Asked) -> dict[str, Any]:
    """Return an image's explanations without their pictures.

    Args:
        explanations: of one image, one per method, of one question.
        asked: the question held against that image.
    """
    main, question, sides = main_of(explanations), asked.question, asked.sides
    said = sides.judge(asked.latent).detach().double().softmax(dim=1)[0]
    probabilities = dict(zip(sides.names, said.tolist(), strict=True))
    target = sides.names[sides.label]
    read_as = sides.names[int(torch.argmax(said))]
    content: dict[str, Any] = {
        "question": f"Where the model finds what speaks for “{target}”",
        "answer": f"The model reads this image as {read_as} ({percent(float(said.max()))}).",
        "target": target,
        "versus": question.versus,
        "attribute": question.attribute,
        "read_as": read_as,
        "probabilities": probabilities,
    }
    if main.sweep is not None:
        content |= _drawn(main.sweep)
    return {**content, "methods": {each.method: _method(each) for each in explanations}}


def _drawn(sweep: Sweep) -> dict[str, Any]:
    label, change = sweep.target_index, summarise_difference(sweep)
    return {
        "question": title_of(sweep),
        "answer": " ".join(describe(sweep)),
        "alphas": sweep.alphas,
        "shown_alpha": sweep.shown_alpha,
        "supported": sweep.supported,
        "probability_direct": sweep.probabilities_direct[:, label],
        "probability_reencoded": sweep.probabilities_reencoded[:, label],
        "read_as_reencoded": [sweep.says(position) for position in range(len(sweep.alphas))],
        "findings_reencoded": [sweep.findings[best] for best in sweep.readings.argmax(axis=1)],
        "scores": {**asdict(sweep.score), "cycle": sweep.cycle, "ssim": sweep.ssim},
        "difference": {**asdict(change), "place": change.place},
    }


def _method(explanation: Explanation) -> dict[str, Any]:
    saliency = explanation.saliency
    row, column = np.unravel_index(int(saliency.argmax()), saliency.shape)
    found: dict[str, Any] = {
        "peak_row": (row + 0.5) / saliency.shape[0],
        "peak_column": (column + 0.5) / saliency.shape[1],
        "figures": dict(explanation.figures),
    }
    if explanation.sweep is not None:
        found["flip_alpha"] = explanation.sweep.score.flip_alpha
    return found


def rows_of(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the scores of a record as rows of words."""
    likely = sorted(content["probabilities"].items(), key=lambda pair: -pair[1])
    read = ", ".join(f"{name} {percent(value)}" for name, value in likely[:5])
    asked = "The model's reading of the image"
    if content["attribute"] is not None:
        asked = "Where the image lies, as the atlas tells it"
    rows = [(asked, read)]
    if "scores" in content:
        rows += _score_rows(content)
    for method, found in content["methods"].items():
        figures = [
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in found["figures"].items()
        ]
        if figures:
            rows.append((f"{method.replace('_', ' ')}, figures", ", ".join(figures)))
    return rows


def _score_rows(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    scores, change = content["scores"], content["difference"]
    flip = scores["flip_alpha"]
    return [
        ("The answer turns at step", "at no step shown" if flip is None else signed(flip)),
        ("Rank correlation of step and redrawn reading", f"{scores['spearman']:.2f}"),
        ("Rises at every step", "yes" if scores["strictly_monotone"] else "no"),
        ("Likeness of image and redrawing (SSIM)", f"{scores['ssim']:.2f}"),
        ("Cycle error", f"{scores['cycle']:.2f}"),
        ("Strongest change", f"{change['place']}, {change['peak'] * 100:+.0f} % of full scale"),
    ]
