"""Visual explanations: what the model would have to see to say something else.

z* = z + alpha (z1 - z0), decoded (paper section 2.5.1, equation 1, and 2.5.2). z1 is the latent
mean of the wished class, z0 that of all others or of one other class; both come from the atlas.
Differences from the paper: every frame is also encoded again and judged again, f(E(D(z*))),
because the direct score f(z*) is monotone by construction with a linear head; and `mu` is used,
never a sampled z. What crosses the hospital's boundary: nothing. Sweeps and difference maps are
pictures of a patient and stay where the image is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import encoder_hash
from mfm_core.dataset import ImageSet
from mfm_core.errors import CheckpointError, DataError
from mfm_core.faithfulness import Localisation, localise
from mfm_core.ssim import ssim
from mfm_core.sweep import Floats, Pixels, Sweep

ALPHA_LIMIT = 4.0
"""Largest |alpha|; beyond it the decoder is far outside what it was trained on. Ours."""

ALPHAS: tuple[float, ...] = tuple(round(-2.0 + 0.4 * step, 1) for step in range(11))
"""Eleven steps in [-2, 2]."""


def check_encoder(model: Autoencoder, atlas: Atlas) -> None:
    """Refuse an atlas whose latent means were made by another encoder.

    Raises:
        CheckpointError: the hashes differ.
    """
    found = encoder_hash(model)
    if found != atlas.encoder_hash:
        raise CheckpointError(
            f"the atlas was made with encoder {atlas.encoder_hash[:12]}, the model is "
            f"{found[:12]}; use model and atlas files of the same run"
        )


def class_shift(
    model: Autoencoder,
    atlas: Atlas,
    image: Pixels,
    target: str,
    versus: str | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Sweep:
    """Return one image moved along the axis of `target` (paper equation 1).

    Args:
        model: the autoencoder whose latent space the atlas describes.
        atlas: class means of the consortium.
        image: `[C, H, W] float32 in [0, 1]`, the size the model was built for.
        target: class that alpha > 0 moves towards.
        versus: class to move away from; None is all others.
        alphas: steps in [-4, 4]; 0 is added when missing.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: unknown or empty class, alpha out of range, wrong picture, latent not finite;
            all that can be found at once.
    """
    check_encoder(model, atlas)
    problems = _class_problems(atlas, target, versus) + _alpha_problems(alphas)
    problems += _image_problems(model, image)
    if problems:
        raise DataError("explanation", problems)
    return _sweep(model, atlas, image, (target, versus), _with_zero(alphas))


def decode_class_means(model: Autoencoder, atlas: Atlas) -> Pixels:
    """Return what the model draws for the mean latent of each class (paper section 2.5.2).

    Returns:
        `[K, C, H, W] float32 in [0, 1]`; NaN for a class without images.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
    """
    check_encoder(model, atlas)
    means = np.asarray(atlas.means, dtype=np.float32)
    with _reading(model):
        drawn = model.decode(torch.from_numpy(np.nan_to_num(means))).clamp(0, 1).numpy()
    drawn[np.asarray(atlas.counts) <= 0] = np.nan
    return np.asarray(drawn, dtype=np.float32)


def explanation_scores(
    model: Autoencoder,
    atlas: Atlas,
    images: ImageSet,
    indices: NDArray[np.int64],
    masks: NDArray[np.bool_] | None = None,
    per_class: int = 8,
) -> list[dict[str, Any]]:
    """Return per class how far its explanations can be believed (see RESULTS.md, explanations).

    Each class is scored on at most `per_class` images of its own (the class has to fade) and as
    many of the others (it has to appear), evenly spaced over `indices`.

    Args:
        model: the autoencoder.
        atlas: class means of the same encoder.
        images: one site's images.
        indices: `[M] int64` into `images`, usually the test split.
        masks: `[N, H, W] bool` true region per image of `images`; scored on images of the class.
        per_class: at most this many images of a class and of the others.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: an image gives no finite latent.
    """
    check_encoder(model, atlas)
    labels = images.labels[indices]
    rows = []
    for label, name in enumerate(atlas.ontology.classes):
        own = _spread(indices[labels == label], per_class)
        others = _spread(indices[(labels != label) & (labels >= 0)], per_class)
        if _class_problems(atlas, name, None):
            own = others = own[:0]
        sweeps, places = [], []
        for index in (*own, *others):
            image = images.batch(np.array([index]))[0].numpy()
            sweeps.append(_sweep(model, atlas, image, (name, None), np.array(ALPHAS)))
            if masks is not None and images.labels[index] == label and masks[index].any():
                places.append(localise(sweeps[-1].difference, masks[index]))
        rows.append({"class": name, **_summarise(sweeps), **_summarise_places(places)})
    return rows


def _summarise(sweeps: list[Sweep]) -> dict[str, Any]:
    scores = [sweep.score for sweep in sweeps]
    flips = [abs(score.flip_alpha) for score in scores if score.flip_alpha is not None]
    return {
        "n": len(sweeps),
        "spearman": _median([score.spearman for score in scores]),
        "strictly_monotone": _mean([score.strictly_monotone for score in scores]),
        "flip_rate": _mean([score.flip_alpha is not None for score in scores]),
        "flip_alpha": _median(flips),
        "cycle": _median([sweep.cycle for sweep in sweeps]),
        "ssim": _median([sweep.ssim for sweep in sweeps]),
    }


def _summarise_places(places: list[Localisation]) -> dict[str, Any]:
    return {
        "n_masks": len(places),
        "iou": _mean([place.iou for place in places]),
        "pointing": _mean([place.pointing for place in places]),
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _spread(indices: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of the indices, evenly spaced."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(np.int64)]


def _with_zero(alphas: Sequence[float]) -> Floats:
    return np.array(sorted({0.0, *(float(alpha) for alpha in alphas)}))


def _class_problems(atlas: Atlas, target: str, versus: str | None) -> list[str]:
    classes = atlas.ontology.classes
    problems = []
    for name in dict.fromkeys((target, versus)):
        if name is not None and name not in classes:
            problems.append(
                f"class {name!r} is not in the atlas; choose one of {', '.join(classes)}"
            )
        elif name is not None and atlas.counts[classes.index(name)] <= 0:
            problems.append(f"class {name!r} had no images when the atlas was made; choose another")
    if target in classes and versus is None and len(atlas.present) < 2:
        problems.append(f"no class but {target!r} had images; an axis needs two classes")
    if target == versus:
        problems.append(f"class and versus are both {target!r}; name two different classes")
    return problems


def _alpha_problems(alphas: Sequence[float]) -> list[str]:
    bad = [alpha for alpha in alphas if not abs(alpha) <= ALPHA_LIMIT]
    if bad:
        found = ", ".join(f"{alpha:g}" for alpha in bad)
        return [
            f"alpha {found} is outside [-{ALPHA_LIMIT:g}, {ALPHA_LIMIT:g}]; choose smaller steps"
        ]
    return [] if any(alpha != 0 for alpha in alphas) else ["no alpha but 0; give at least one step"]


def _image_problems(model: Autoencoder, image: Pixels) -> list[str]:
    config = model.image_config
    want = (config.channels, config.size_px, config.size_px)
    if tuple(image.shape) != want:
        return [
            f"image of shape {tuple(image.shape)}, the model needs {want}; read it for this model"
        ]
    if not np.isfinite(image).all():
        return ["the image holds values that are not finite; export it again"]
    if image.min() < 0 or image.max() > 1:
        low, high = float(image.min()), float(image.max())
        return [f"image values in [{low:g}, {high:g}], expected [0, 1]; scale them first"]
    return []


@contextmanager
def _reading(model: Autoencoder) -> Iterator[None]:
    """Hold the model in evaluation mode without gradients, then put its mode back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _sweep(
    model: Autoencoder,
    atlas: Atlas,
    image: Pixels,
    classes: tuple[str, str | None],
    alphas: Floats,
) -> Sweep:
    axis = np.asarray(atlas.class_axis(*classes), dtype=np.float32)
    picture = torch.from_numpy(np.array(image, dtype=np.float32))[None]
    with _reading(model):
        latent, _ = model.encode(picture)
        if not torch.isfinite(latent).all() or not np.isfinite(axis).all():
            problem = "the model gives a latent that is not finite; load an undamaged model file"
            raise DataError("explanation", [problem])
        steps = torch.from_numpy(alphas.astype(np.float32))[:, None]
        moved = latent + steps * torch.from_numpy(axis)
        frames = model.decode(moved).clamp(0, 1)
        again, _ = model.encode(frames)
        direct, reencoded = model.classify(moved), model.classify(again)
        zero = int(np.flatnonzero(alphas == 0.0)[0])
        cycle = (again[zero] - latent[0]).norm() / latent[0].norm().clamp_min(1e-12)
        likeness = ssim(frames[zero : zero + 1], picture)
    return Sweep(
        target=classes[0],
        versus=classes[1],
        classes=tuple(atlas.ontology.classes),
        alphas=alphas,
        images=frames.numpy(),
        probabilities_direct=_softmax(direct),
        probabilities_reencoded=_softmax(reencoded),
        log_odds=_log_odds(reencoded, atlas.ontology.classes.index(classes[0])),
        original=image,
        cycle=float(cycle),
        ssim=float(likeness),
    )


def _softmax(logits: torch.Tensor) -> Floats:
    """Return `[A, K] float64`."""
    return np.asarray(logits.double().softmax(dim=1).numpy())


def _log_odds(logits: torch.Tensor, label: int) -> Floats:
    """Return `[A] float64`, logit of the class minus the log-sum-exp of the others."""
    exact = logits.double()
    others = torch.cat([exact[:, :label], exact[:, label + 1 :]], dim=1)
    return np.asarray((exact[:, label] - others.logsumexp(dim=1)).numpy())
