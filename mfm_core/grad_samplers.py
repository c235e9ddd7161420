"""The gradient of every image on its own, out of one ordinary backward pass.

Our layers register their grad samplers with Opacus; `Tape` calls Opacus's registry. Opacus's own
hooks let autograd reduce each weight's gradient over the batch and then form it once more per
image. Here the weights are constants during the pass, so nothing is reduced, and hooks on the
outputs make the gradients as soon as what they are made of comes back (`mfm_core.image_gradients`).
A layer that nobody registered is refused.
Nothing here crosses the hospital's boundary: a gradient of one image never may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import nn

from mfm_core.autoencoder import Autoencoder
from mfm_core.blocks import Block, Conv3x3, GroupPointwise, Norm
from mfm_core.devices import device_of
from mfm_core.image_gradients import Gradients, Use, formed, inner_products, is_wide, multiply
from mfm_core.linear_path import LinearPath

Samples = dict[Any, torch.Tensor]
"""Parameter to its gradients per image, `[N, *shape]`."""

Kept = Mapping[Any, Use]
"""Parameter to its gradients per image, formed or not."""


@register_grad_sampler(GroupPointwise)  # type: ignore[untyped-decorator]
def sample_pointwise(
    layer: GroupPointwise, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of a 1x1 group convolution, one batched product a group.

    Args:
        layer: the convolution.
        activations: its input, `[N, places, before]`.
        backprops: gradient by its output, `[N, places, after]`.
    """
    given, slope = (part.flatten(0, 1) for part in (activations[0], backprops))
    kept = _Rows(layer, given, len(backprops), alone=False).keep(slope)
    return {p: formed([use], p.shape) for p, use in kept.items()}


@register_grad_sampler(Conv3x3)  # type: ignore[untyped-decorator]
def sample_conv(
    layer: Conv3x3, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of a 3x3 convolution.

    The N images of C channels become one image of N * C channels in N times as many groups:
    torch's own kernel for the weight's gradient then keeps the images apart. Channels-last stays
    channels-last, so that the copies move whole rows of channels.

    Args:
        layer: the convolution.
        activations: its input, `[N, before, H, W]`.
        backprops: gradient by its output, `[N, after, H, W]`.
    """
    (images,), weight = activations, layer.weight
    count = len(images)
    _, gradients, _ = torch.ops.aten.convolution_backward(
        _side_by_side(backprops),
        _side_by_side(images),
        weight.new_empty(1).expand(count * len(weight), *weight.shape[1:]),  # only its shape counts
        None,
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        count * layer.groups,
        [False, True, False],
    )
    found: Samples = {weight: gradients.view(count, *weight.shape)}
    if layer.bias is not None:
        found[layer.bias] = backprops.sum(dim=(2, 3))
    return found


def _side_by_side(images: torch.Tensor) -> torch.Tensor:
    """Return `[1, N * C, H, W]`, channels-last, of `[N, C, H, W]`."""
    return images.permute(2, 3, 0, 1).flatten(2)[None].permute(0, 3, 1, 2)


@register_grad_sampler(Norm)  # type: ignore[untyped-decorator]
def sample_norm(layer: Norm, activations: list[torch.Tensor], backprops: torch.Tensor) -> Samples:
    """Return the gradients per image of a GroupNorm's scale and shift.

    Args:
        layer: the norm.
        activations: its input, `[N, C, H, W]`, and the moments it found (`Norm.moments`).
        backprops: gradient by its output, `[N, C, H, W]`.
    """
    images, mean, over_deviation = activations
    shift = backprops.sum(dim=(2, 3))
    scale = (backprops * images).sum(dim=(2, 3)).view(len(images), layer.num_groups, -1)
    scale.addcmul_(shift.view_as(scale), mean.unsqueeze(2), value=-1.0)
    scale.mul_(over_deviation.unsqueeze(2))
    return {layer.weight: scale.view_as(shift), layer.bias: shift}


@register_grad_sampler(LinearPath)  # type: ignore[untyped-decorator]
def sample_linear_path(
    layer: LinearPath, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of basis, gains and (when writing) mean image."""
    kept = _keep_linear_path(layer, activations[0], False, backprops)
    return {p: formed([use], p.shape) for p, use in kept.items()}


def _keep_linear_path(
    layer: LinearPath, given: torch.Tensor, alone: bool, slope: torch.Tensor
) -> Kept:
    return (_keep_reading if given.ndim == 4 else _keep_writing)(layer, given, alone, slope)


def _keep_reading(
    layer: LinearPath, centred: torch.Tensor, alone: bool, by_latent: torch.Tensor
) -> Kept:
    numbers, slope = layer.describe(centred), by_latent.transpose(0, 1)
    read = torch.bmm(numbers, layer.basis.detach().transpose(1, 2))
    gain = (slope * read).transpose(0, 1).unsqueeze(2)
    return {
        layer.gain_in: gain,
        layer.basis: _cells_product(slope * layer.gain_in.detach(), numbers, alone),
    }


def _keep_writing(
    layer: LinearPath, latent: torch.Tensor, alone: bool, by_images: torch.Tensor
) -> Kept:
    cells, basis, gain = latent.transpose(0, 1), layer.basis.detach(), layer.gain_out.detach()
    with torch.enable_grad():  # drawing is linear: its gradient anywhere is its transpose
        numbers = basis.new_zeros(len(basis), len(latent), basis.shape[2], requires_grad=True)
        drawn = layer.draw(numbers)
        (slope,) = torch.autograd.grad(drawn, numbers, by_images)
    by_gain = (cells * torch.bmm(slope, basis.transpose(1, 2))).transpose(0, 1).unsqueeze(2)
    return {
        layer.gain_out: by_gain,
        layer.basis: _cells_product(cells * gain, slope, alone),
        layer.mean_image: by_images.clone(),
    }


def _cells_product(left: torch.Tensor, right: torch.Tensor, alone: bool) -> Use:
    """Return the outer products of `[cells, N, a]` and `[cells, N, b]`: one place, cells groups."""
    rows = (part.transpose(0, 1).unsqueeze(1) for part in (left, right))
    return multiply(*rows, alone=alone)


class _Rows:
    """What a layer of rows was given: of weight `[g, o, i]` or `[o, i]`, rows `[N * T, g * i]`."""

    def __init__(
        self, layer: GroupPointwise | nn.Linear, given: torch.Tensor, count: int, *, alone: bool
    ) -> None:
        weight = layer.weight
        self._layer, self._groups = layer, len(weight) if weight.ndim == 3 else 1
        self._right, self._rights = self._cut(given, count), None
        self._alone = alone
        if alone and is_wide(self._right.shape[1], *weight.shape[-2:]):
            self._rights = inner_products(self._right, self._right)

    def _cut(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        return rows.reshape(count, -1, self._groups, rows.shape[1] // self._groups)

    def keep(self, slope: torch.Tensor) -> Kept:
        left = self._cut(slope, len(self._right))
        kept = {self._layer.weight: multiply(left, self._right, self._rights, alone=self._alone)}
        if isinstance(self._layer, nn.Linear) and self._layer.bias is not None:
            kept[self._layer.bias] = left.sum(dim=1).flatten(1)
        return kept


def _keeper(
    layer: nn.Module, seen: torch.Tensor, count: int, alone: bool
) -> Callable[[torch.Tensor], Kept]:
    """Return what makes a layer's gradients, of `count` images, of the one that comes back."""
    if isinstance(layer, GroupPointwise | nn.Linear):
        return _Rows(layer, seen, count, alone=alone).keep
    if isinstance(layer, LinearPath):
        return partial(_keep_linear_path, layer, seen, alone)
    moments = layer.moments if isinstance(layer, Norm) else ()
    return partial(_registry()[type(layer)], layer, [seen, *moments])


class Tape:
    """Records the gradients per image of all parameters that learn; owns the hooks for it.

    The images of a second, smaller use of the encoder (the cycle term) must be the first images
    of the batch: their gradients add to those of the first use.

    Args:
        model: its parameters that require a gradient are recorded.

    Attributes:
        gradients: of the images that were sampled last.
        alone: whether each of the next images is a unit of its own; False takes no inner products
            for the norms of single images.

    Raises:
        ValueError: a layer that learns has no registered grad sampler.
    """

    def __init__(self, model: Autoencoder) -> None:
        self._model, self._images, self._count = model, 0, 0
        self._learning: list[Any] = [p for p in model.parameters() if p.requires_grad]
        self._layers = [
            layer
            for layer in model.modules()
            if layer is not model and any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        unknown = {type(x).__name__ for x in self._layers if type(x) not in _registry()}
        if unknown:
            known = sorted(kind.__name__ for kind in _registry())
            raise ValueError(f"no grad sampler for {sorted(unknown)}; registered are {known}")
        self._handles: list[Any] = []
        self._uses: dict[Any, list[Use]] = {}
        self.gradients, self.alone = Gradients({}), True

    def __enter__(self) -> Self:
        """Attach the hooks."""
        path = self._model.linear_path
        centred = path is not None and path.mean_image.requires_grad
        for part in (self._model.encoder, self._model.decoder):
            self._handles.append(part.register_forward_pre_hook(self._begin))
        if centred:
            self._handles.append(self._model.encoder.register_forward_pre_hook(self._see_centred))
        watched = self._watched()
        for block in watched:
            block.watch = partial(self._watch, block)
        inside = {layer for block in watched for layer in block.children()}
        for layer in self._layers:
            if layer not in inside:
                self._handles.append(layer.register_forward_hook(self._see))
        self._forget()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hooks and all gradients per image away."""
        for handle in self._handles:
            handle.remove()
        for block in self._watched():
            block.watch = None
        for parameter in self._learning:
            parameter.requires_grad_(True)
        self._forget()

    def sample(
        self, given: torch.Tensor, losses_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Set `gradients`: those of all images by every parameter that learns.

        Args:
            given: what the model is given, `[N, ...]`; N > 0.
            losses_of: from it to the loss of every image, `[N]`; image i's depends on i alone.

        Raises:
            ValueError: a parameter that learns has no part in the losses.
        """
        self._forget()
        self._images = self._count = len(given)
        for parameter in self._learning:
            parameter.requires_grad_(False)
        try:
            losses = losses_of(given.detach().requires_grad_())
            losses.sum().backward()  # type: ignore[no-untyped-call]
        finally:
            for parameter in self._learning:
                parameter.requires_grad_(True)
        left_out = sum(parameter not in self._uses for parameter in self._learning)
        if left_out:
            raise ValueError(f"{left_out} parameters that learn have no part in the losses")
        with torch.no_grad():
            self.gradients = Gradients(self._uses)
        self._uses = {}

    def spread(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return one copy of a parameter `[1, ...]` per image, `[N, ...]`, and record its gradient.

        For parameters that no layer owns: what is computed with copy i may touch loss i alone.
        """
        copies = parameter.detach().expand(self._images, *parameter.shape[1:])
        if parameter not in set(self._learning):
            return copies
        copies = copies.requires_grad_()
        copies.register_hook(lambda slope: self._record({parameter: slope.clone()}))  # type: ignore[no-untyped-call]
        return copies

    def _watched(self) -> list[Block]:
        """Return the blocks that learn, where they run as one pass."""
        if device_of(self._model).type != "cpu":
            return []
        learns = set(self._layers)
        blocks = [part for part in self._model.modules() if isinstance(part, Block)]
        return [block for block in blocks if learns.intersection(block.children())]

    def _watch(
        self, block: Block, count: int, moments: list[torch.Tensor], *given: torch.Tensor
    ) -> Callable[..., None]:
        block.norm.moments = tuple(moments)
        keepers = [
            _keeper(layer, seen.detach(), count, self.alone) if layer in self._layers else None
            for layer, seen in zip(block.children(), given, strict=True)
        ]

        def record(*slopes: torch.Tensor) -> None:
            for keep, slope in zip(keepers, slopes, strict=True):
                if keep is not None:
                    self._record(keep(slope))

        return record

    def _begin(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._count = given[1] if len(given) > 1 else len(given[0])

    def _see_centred(self, _: nn.Module, given: tuple[torch.Tensor]) -> None:
        path = self._model.linear_path
        if path is not None and given[0].requires_grad:
            mean = path.mean_image
            given[0].register_hook(lambda slope: self._record({mean: -slope}))  # type: ignore[no-untyped-call]

    def _see(self, layer: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if not output.requires_grad:
            return
        keep = _keeper(layer, given[0].detach(), self._count, self.alone)

        def record(slope: torch.Tensor) -> None:
            with torch.no_grad():
                self._record(keep(slope))

        output.register_hook(record)  # type: ignore[no-untyped-call]

    def _record(self, kept: Kept) -> None:
        for parameter, use in kept.items():
            self._uses.setdefault(parameter, []).append(use)

    def _forget(self) -> None:
        self._uses, self.gradients = {}, Gradients({})


def _registry() -> dict[type[nn.Module], Callable[..., Samples]]:
    found: dict[type[nn.Module], Callable[..., Samples]] = GradSampleHooks.GRAD_SAMPLERS
    return found
