"""Can an image be drawn back from a gradient or an update? Two attacks, the strong one first.

Closed form (linear layers; Phong et al. 2018): the head's gradient of one image is the outer
product of an error and the latent, and the bias's gradient is the error itself. Their quotient is
the latent, exactly, and the model's own decoder draws it. Of an update of many steps the same
quotient gives a mean latent at best.
Matching (Geiping et al. 2020): an image is optimised until its own gradient points where the seen
one points, cosine over all weights plus a total variation, started from the closed form's drawing.

The attacker knows the model, the loss and the label. `gradient_of` takes the undamaged image and
the mean latent: the worst case, without the random changes of training.
What crosses the hospital's boundary: nothing; what is drawn shows patients and is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mfm_core.autoencoder import Autoencoder
from mfm_core.config import ObjectiveConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import to_array
from mfm_core.ssim import ssim

Gradient = dict[str, torch.Tensor]
Indices = NDArray[np.int64]

STEP = 0.003
"""Step of the optimised image, in brightness."""

VARIATION = 1e-3
"""Weight of the total variation."""

SIGMA, REACH = 1.5, 5


@dataclass(frozen=True)
class Redrawn:
    """How near a drawing came.

    Attributes:
        ssim: of the drawing and the image it is meant to be, in [-1, 1].
        psnr_db: likewise, decibels.
        rank: of that image among `among`, by SSIM to the drawing; 1 is found.
        chance_rank: mean rank of guessing.
        among: images compared.
        blind_ssim: of the site's mean image and that image: what nobody's gradient gives.
    """

    ssim: float
    psnr_db: float
    rank: int
    chance_rank: float
    among: int
    blind_ssim: float


def gradient_of(
    model: Autoencoder, image: torch.Tensor, label: int, config: ObjectiveConfig
) -> Gradient:
    """Return the gradient of the loss of one image `[1, C, H, W]` for every weight, by name."""
    names = [name for name, _ in model.named_parameters() if name != "attention_logits"]
    weights = [model.get_parameter(name) for name in names]
    loss = _loss(model, image, label, config)
    found = torch.autograd.grad(loss, weights, create_graph=image.requires_grad, allow_unused=True)
    pairs = zip(names, found, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None}


def _loss(
    model: Autoencoder, image: torch.Tensor, label: int, config: ObjectiveConfig
) -> torch.Tensor:
    """Return the loss of `mfm_core.objective` without cycle, twice differentiable."""
    output = model(image)
    divergence = 0.5 * (output.mu.square() + output.logvar.exp() - output.logvar - 1.0).mean()
    loss: torch.Tensor = 1.0 - _plain_ssim(output.reconstruction, image)
    loss = loss + config.beta * divergence
    if label < 0:
        return loss
    wanted = torch.tensor([label], device=image.device)
    return loss + config.class_weight * functional.cross_entropy(
        output.logits, wanted, label_smoothing=config.label_smoothing
    )


def _plain_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean SSIM of images in [0, 1] by plain convolutions (Wang et al. 2004)."""
    places = torch.arange(-REACH, REACH + 1, dtype=x.dtype, device=x.device)
    line = torch.exp(-places.square() / (2 * SIGMA**2))
    window = torch.outer(line, line) / line.sum().square()
    kernel = window.expand(x.shape[1], 1, -1, -1)

    def blur(values: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(values, kernel, groups=values.shape[1])

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    both = blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    shape = (2 * both + 9e-4) / (var_x + var_y + 9e-4)
    return (light * shape).mean()


def latent_from(seen: Gradient) -> tuple[torch.Tensor, int] | None:
    """Return the latent `[1, L]` and the label that a head's gradient shows; None without one."""
    weight, bias = seen.get("head.weight"), seen.get("head.bias")
    if weight is None or bias is None or float(bias.abs().max()) == 0.0:
        return None
    row = int(bias.abs().argmax())  # errors add up to 0, so the true class has the largest
    label = row if len(bias) > 2 else int(bias.argmin())
    return (weight[row] / bias[row])[None], label


def draw_back(
    model: Autoencoder,
    seen: Gradient,
    start: torch.Tensor,
    config: ObjectiveConfig,
    steps: int,
    show: Callable[[], None] | None = None,
) -> list[torch.Tensor]:
    """Return the drawings of both attacks, `[1, C, H, W]` each; the closed form's first.

    Args:
        model: the weights for which the gradient was made.
        seen: a gradient by name, of any scale.
        start: `[1, C, H, W]`, what is known without the gradient: the mean image.
        config: weights of the loss terms.
        steps: of matching; 0 leaves it out.
        show: is told after each step.
    """
    drawings, label, known = [], -1, latent_from(seen)
    if known is not None:
        latent, label = known
        with torch.no_grad():
            drawn = model.decode(latent)
        if torch.isfinite(drawn).all():
            drawings.append(drawn)
    starts = [*drawings[:1], start][:1]
    return [*drawings, *(_match(model, seen, s, label, (config, steps), show) for s in starts)]


def _match(
    model: Autoencoder,
    seen: Gradient,
    start: torch.Tensor,
    label: int,
    how: tuple[ObjectiveConfig, int],
    show: Callable[[], None] | None,
) -> torch.Tensor:
    """Return the image whose gradient points most nearly where the seen one does."""
    config, steps = how
    image = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([image], lr=STEP)
    best, least = start, math.inf
    for _ in range(steps):
        optimiser.zero_grad()
        own = gradient_of(model, image, label, config)
        away = 1.0 - _cosine(own, seen)
        if float(away.detach()) < least:
            best, least = image.detach().clone(), float(away.detach())
        (slope,) = torch.autograd.grad(away + VARIATION * _variation(image), [image])
        image.grad = slope
        optimiser.step()
        with torch.no_grad():
            image.clamp_(0.0, 1.0)
        if show is not None:
            show()
    return best


def _cosine(one: Gradient, other: Gradient) -> torch.Tensor:
    names = [name for name in one if name in other]
    product = torch.stack([(one[name] * other[name]).sum() for name in names]).sum()
    lengths = [torch.stack([g[n].square().sum() for n in names]).sum() for g in (one, other)]
    return product / (lengths[0] * lengths[1]).sqrt().clamp_min(1e-20)


def _variation(image: torch.Tensor) -> torch.Tensor:
    rows = (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    return rows + (image[..., :, 1:] - image[..., :, :-1]).abs().mean()


@torch.no_grad()
def compare(
    drawings: Sequence[torch.Tensor], images: ImageSet, true: Indices, among: Indices
) -> Redrawn:
    """Return how near the drawings came to the nearest of the images `true`.

    Args:
        drawings: `[1, C, H, W]` each.
        images: the site's images.
        true: `[M]` the images that the gradient is of.
        among: `[P]` images that could be meant, `true` among them.
    """
    everything = images.batch(among, drawings[0].device)
    meant = np.isin(among, true)
    scores = np.stack([_likeness(drawing, everything) for drawing in drawings])
    best = int(scores[:, meant].max(axis=1).argmax())
    place = int(np.flatnonzero(meant)[scores[best, meant].argmax()])
    wanted = everything[place : place + 1]
    error = float((drawings[best] - wanted).square().mean())
    return Redrawn(
        ssim=float(scores[best, place]),
        psnr_db=-10 * math.log10(max(error, 1e-10)),
        rank=1 + int((scores[best] > scores[best, place]).sum()),
        chance_rank=(len(among) + 1) / (int(meant.sum()) + 1),
        among=len(among),
        blind_ssim=float(_likeness(everything.mean(dim=0, keepdim=True), wanted)[0]),
    )


def _likeness(drawing: torch.Tensor, images: torch.Tensor) -> NDArray[np.float32]:
    """Return the SSIM `[P]` of a drawing and each image."""
    same: NDArray[np.float32] = to_array(ssim(drawing.expand_as(images).contiguous(), images))
    return same


def shielded(seen: Gradient, clip: float, noise: float, seed: int) -> Gradient:
    """Return a gradient clipped to `clip`, with Gaussian noise of `noise` times the clip."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.stack([part.square().sum() for part in seen.values()]).sum().sqrt()
    scale = float((clip / length.clamp_min(1e-20)).clamp(max=1.0))
    return {
        name: scale * part
        + noise * clip * torch.randn(part.shape, generator=generator).to(part.device)
        for name, part in seen.items()
    }


def update_gradient(before: Autoencoder, after: Autoencoder) -> Gradient:
    """Return an update as an attacker reads it: minus the change of every weight, by name."""
    later = dict(after.named_parameters())
    return {
        name: (weight - later[name]).detach()
        for name, weight in before.named_parameters()
        if name != "attention_logits"
    }
