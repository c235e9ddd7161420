"""An explanation of one image, made and kept at the hospital.

Needs the model and the atlas that a run left here, and no network. The panel and the JSON name
neither the patient nor the file; they are named after the class and the image's own content.
What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfm_core.atlas import load_atlas
from mfm_core.checkpoint import encoder_hash, load_model
from mfm_core.errors import DataError
from mfm_core.explanation import ALPHAS, class_shift
from mfm_core.images import Frame, read_image
from mfm_core.pictures import draw_sweep
from mfm_core.report import finite
from mfm_core.sweep import Sweep, describe, summarise_difference, title_of

NOTE = "Research software, not a medical device. The frames are drawings by a model, not findings."


@dataclass(frozen=True)
class Request:
    """What is to be explained.

    Attributes:
        image: a PNG, JPEG, TIFF or DICOM file.
        model: a model file of a run (final.safetensors).
        atlas: the atlas file of the same run.
        target: the class in question.
        versus: another class to compare with; None is all others.
        alphas: steps along the class axis, in [-4, 4].
        frame: frame of a multi-frame DICOM or page of a TIFF.
    """

    image: Path
    model: Path
    atlas: Path
    target: str
    versus: str | None = None
    alphas: Sequence[float] = ALPHAS
    frame: Frame = "middle"


@dataclass(frozen=True)
class Explained:
    """Where an explanation was written and what it says."""

    panel: Path
    record: Path
    content: dict[str, Any]


def explain_image(request: Request, out: Path) -> Explained:
    """Write the panel (PNG) and the numbers (JSON) of one image into `out`; return both.

    Raises:
        CheckpointError: model or atlas cannot be read, or do not belong together.
        DataError: the image cannot be used, or class or alphas do not fit; all that can be found.
    """
    model, metadata = load_model(request.model)
    fingerprint = encoder_hash(model)
    atlas = load_atlas(request.atlas, fingerprint)
    try:
        pixels = read_image(request.image, model.image_config, request.frame)
    except DataError as error:
        raise DataError(str(request.image), error.problems) from None
    image = np.asarray(pixels, dtype=np.float32) / 255.0
    sweep = class_shift(model, atlas, image, request.target, request.versus, request.alphas)
    content = finite(
        {
            **record_of(sweep),
            "encoder_hash": fingerprint,
            "config_hash": metadata.get("config_hash", ""),
            "note": NOTE,
        }
    )
    name = _name_of(request, pixels.tobytes())
    out.mkdir(parents=True, exist_ok=True)
    panel, record = out / f"{name}.png", out / f"{name}.json"
    panel.write_bytes(draw_sweep(sweep))
    text = json.dumps(content, indent=2, ensure_ascii=False)
    record.write_text(text + "\n", encoding="utf-8")
    return Explained(panel, record, content)


def record_of(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep in numbers and words, without its pictures."""
    label, score = sweep.target_index, sweep.score
    change = summarise_difference(sweep)
    first = sweep.probabilities_direct[sweep.zero]
    return {
        "question": title_of(sweep),
        "answer": " ".join(describe(sweep)),
        "target": sweep.target,
        "versus": sweep.versus,
        "read_as": sweep.classes[int(first.argmax())],
        "probabilities": dict(zip(sweep.classes, first.tolist(), strict=True)),
        "alphas": sweep.alphas,
        "probability_direct": sweep.probabilities_direct[:, label],
        "probability_reencoded": sweep.probabilities_reencoded[:, label],
        "read_as_reencoded": [sweep.says(position) for position in range(len(sweep.alphas))],
        "scores": {**asdict(score), "cycle": sweep.cycle, "ssim": sweep.ssim},
        "difference": {**asdict(change), "place": change.place},
    }


def _name_of(request: Request, pixels: bytes) -> str:
    classes = [request.target] if request.versus is None else [request.target, request.versus]
    words = "-versus-".join(re.sub(r"\W+", "-", word).strip("-").lower() for word in classes)
    return f"explanation-{words}-{hashlib.sha256(pixels).hexdigest()[:10]}"
