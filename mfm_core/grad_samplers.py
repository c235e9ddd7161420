"""The gradient of every image on its own, out of one ordinary backward pass.

Our layers register their grad samplers with Opacus; `Tape` calls Opacus's registry. Opacus's own
hooks let autograd reduce each weight's gradient over the batch and then form it once more per
image. Here the weights are constants during the pass, so nothing is reduced, and hooks on the
outputs keep what the gradients are made of. Layers of products keep input and returned gradient
only (`mfm_core.image_gradients`); the others, small ones, form the gradients by their sampler. A
layer that nobody registered is refused.
Nothing here crosses the hospital's boundary: a gradient of one image never may.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from opacus.grad_sample import register_grad_sampler
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import nn

from mfm_core.autoencoder import Autoencoder
from mfm_core.blocks import Conv3x3, GroupPointwise, Norm
from mfm_core.image_gradients import Product, Use, Whole, formed, thin
from mfm_core.linear_path import LinearPath

Samples = dict[Any, torch.Tensor]
"""Parameter to its gradients per image, `[N, *shape]`."""

Kept = dict[Any, Use]
"""Parameter to what its gradients per image are made of."""


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
    return {layer.weight: _rows_product(layer.weight, activations[0], backprops).form()}


def _rows_product(weight: torch.Tensor, given: torch.Tensor, slope: torch.Tensor) -> Product:
    """Return the product of a layer of rows: weight `[g, o, i]` or `[o, i]`, both `[N, T, C]`."""
    groups = len(weight) if weight.ndim == 3 else 1
    count, places = slope.shape[:2]
    return Product(
        slope.reshape(count, places, groups, -1), given.reshape(count, places, groups, -1)
    )


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
        weight.detach().repeat(count, 1, 1, 1),
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
    channels = images.shape[1] // layer.num_groups
    mean, over_deviation = (x.repeat_interleave(channels, 1) for x in (mean, over_deviation))
    shift = backprops.sum(dim=(2, 3))
    scale = ((backprops * images).sum(dim=(2, 3)) - shift * mean) * over_deviation
    return {layer.weight: scale, layer.bias: shift}


@register_grad_sampler(LinearPath)  # type: ignore[untyped-decorator]
def sample_linear_path(
    layer: LinearPath, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of basis, gains and (when writing) mean image."""
    kept = _keep_linear_path(layer, activations[0], backprops)
    return {p: formed([use], p.shape) for p, use in kept.items()}


def _keep_linear_path(layer: LinearPath, given: torch.Tensor, slope: torch.Tensor) -> Kept:
    return (_keep_reading if given.ndim == 4 else _keep_writing)(layer, given, slope)


def _keep_reading(layer: LinearPath, centred: torch.Tensor, by_latent: torch.Tensor) -> Kept:
    numbers, slope = layer.describe(centred), by_latent.transpose(0, 1)
    read = torch.bmm(numbers, layer.basis.detach().transpose(1, 2))
    gain = (slope * read).transpose(0, 1).unsqueeze(2)
    return {
        layer.gain_in: Whole(gain),
        layer.basis: _cells_product(slope * layer.gain_in.detach(), numbers),
    }


def _keep_writing(layer: LinearPath, latent: torch.Tensor, by_images: torch.Tensor) -> Kept:
    cells, basis, gain = latent.transpose(0, 1), layer.basis.detach(), layer.gain_out.detach()
    with torch.enable_grad():  # drawing is linear: its gradient anywhere is its transpose
        numbers = basis.new_zeros(len(basis), len(latent), basis.shape[2], requires_grad=True)
        drawn = layer.draw(numbers)
        (slope,) = torch.autograd.grad(drawn, numbers, by_images)
    by_gain = (cells * torch.bmm(slope, basis.transpose(1, 2))).transpose(0, 1).unsqueeze(2)
    return {
        layer.gain_out: Whole(by_gain),
        layer.basis: _cells_product(cells * gain, slope),
        layer.mean_image: Whole(by_images),
    }


def _cells_product(left: torch.Tensor, right: torch.Tensor) -> Product:
    """Return the outer products of `[cells, N, a]` and `[cells, N, b]`: one place, cells groups."""
    return Product(left.transpose(0, 1).unsqueeze(1), right.transpose(0, 1).unsqueeze(1))


def _keep_rows(layer: GroupPointwise | nn.Linear, given: torch.Tensor, slope: torch.Tensor) -> Kept:
    kept: Kept = {layer.weight: _rows_product(layer.weight, given, slope)}
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        kept[layer.bias] = Whole(slope.sum(dim=1))
    return kept


class Tape:
    """Records the gradients per image of all parameters that learn; owns the hooks for it.

    The images of a second, smaller use of the encoder (the cycle term) must be the first images
    of the batch: their gradients add to those of the first use.

    Args:
        model: its parameters that require a gradient are recorded.

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
        self.uses: dict[Any, list[Use]] = {}

    def __enter__(self) -> Self:
        """Attach the hooks."""
        path = self._model.linear_path
        centred = path is not None and path.mean_image.requires_grad
        for part in (self._model.encoder, self._model.decoder):
            self._handles.append(part.register_forward_pre_hook(self._begin))
        if centred:
            self._handles.append(self._model.encoder.register_forward_pre_hook(self._see_centred))
        for layer in self._layers:
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
        for parameter in self._learning:
            parameter.requires_grad_(True)
        self.uses = {}

    def sample(
        self, given: torch.Tensor, losses_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Set `uses`: what the gradients of every parameter that learns are made of.

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
            with torch.no_grad():
                self.uses = {p: thin(found, p.shape) for p, found in self.uses.items()}
        finally:
            for parameter in self._learning:
                parameter.requires_grad_(True)
        left_out = sum(parameter not in self.uses for parameter in self._learning)
        if left_out:
            raise ValueError(f"{left_out} parameters that learn have no part in the losses")

    def each(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return a parameter's gradients, `[N, *shape]`."""
        return formed(self.uses[parameter], parameter.shape)

    def spread(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return one copy of a parameter `[1, ...]` per image, `[N, ...]`, and record its gradient.

        For parameters that no layer owns: what is computed with copy i may touch loss i alone.
        """
        copies = parameter.detach().expand(self._images, *parameter.shape[1:])
        if parameter not in set(self._learning):
            return copies
        copies = copies.requires_grad_()
        copies.register_hook(lambda slope: self._record({parameter: Whole(slope)}))  # type: ignore[no-untyped-call]
        return copies

    def _begin(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._count = given[1] if len(given) > 1 else len(given[0])

    def _see_centred(self, _: nn.Module, given: tuple[torch.Tensor]) -> None:
        path = self._model.linear_path
        if path is not None and given[0].requires_grad:
            mean = path.mean_image
            given[0].register_hook(lambda slope: self._record({mean: Whole(-slope)}))  # type: ignore[no-untyped-call]

    def _see(self, layer: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if not output.requires_grad:
            return
        seen, count = given[0].detach(), self._count
        moments = layer.moments if isinstance(layer, Norm) else ()

        def record(slope: torch.Tensor) -> None:
            with torch.no_grad():
                if isinstance(layer, GroupPointwise | nn.Linear):
                    parts = [part.reshape(count, -1, part.shape[1]) for part in (seen, slope)]
                    self._record(_keep_rows(layer, *parts))
                elif isinstance(layer, LinearPath):
                    self._record(_keep_linear_path(layer, seen, slope))
                else:
                    found = _registry()[type(layer)](layer, [seen, *moments], slope)
                    self._record({p: Whole(each) for p, each in found.items()})

        output.register_hook(record)  # type: ignore[no-untyped-call]

    def _record(self, kept: Kept) -> None:
        for parameter, use in kept.items():
            self.uses.setdefault(parameter, []).append(use)

    def _forget(self) -> None:
        self.uses = {}


def _registry() -> dict[type[nn.Module], Callable[..., Samples]]:
    found: dict[type[nn.Module], Callable[..., Samples]] = GradSampleHooks.GRAD_SAMPLERS
    return found
