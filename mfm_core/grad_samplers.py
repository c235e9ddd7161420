"""The gradient of every image on its own, out of one ordinary backward pass.

Our layers register their grad samplers with Opacus; `Tape` calls Opacus's registry. Opacus's own
hooks let autograd reduce each weight's gradient over the batch and then form it once more per
image. Here the weights are constants during the pass, so nothing is reduced, and hooks on the
outputs form the gradients per image once: for a 1x1 group convolution that is the batched product
that would have been summed anyway. A layer that nobody registered is refused.
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
from mfm_core.blocks import Conv3x3, GroupPointwise
from mfm_core.linear_path import LinearPath, describe, draw

Samples = dict[Any, torch.Tensor]
"""Parameter to its gradients per image, `[N, *shape]`."""

ROW_LAYERS = (GroupPointwise, nn.Linear)
"""Layers whose input has one row per place of the grid: `[N * places, channels]`."""


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
    groups, outer, inner = layer.weight.shape
    count, places = backprops.shape[:2]
    left = backprops.reshape(count, places, groups, outer)
    right = activations[0].reshape(count, places, groups, inner)
    gradients = left.new_empty(count, groups, outer, inner)
    for group in range(groups):
        gradients[:, group] = torch.bmm(left[:, :, group].mT, right[:, :, group])
    return {layer.weight: gradients}


@register_grad_sampler(Conv3x3)  # type: ignore[untyped-decorator]
def sample_conv(
    layer: Conv3x3, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of a 3x3 convolution.

    The N images of C channels become one image of N * C channels in N times as many groups:
    torch's own kernel for the weight's gradient then keeps the images apart.

    Args:
        layer: the convolution.
        activations: its input, `[N, before, H, W]`.
        backprops: gradient by its output, `[N, after, H, W]`.
    """
    (images,), weight = activations, layer.weight
    count, _, height, width = images.shape
    _, gradients, _ = torch.ops.aten.convolution_backward(
        backprops.reshape(1, -1, height, width),
        images.reshape(1, -1, height, width),
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


@register_grad_sampler(LinearPath)  # type: ignore[untyped-decorator]
def sample_linear_path(
    layer: LinearPath, activations: list[torch.Tensor], backprops: torch.Tensor
) -> Samples:
    """Return the gradients per image of basis, gains and (when writing) mean image."""
    if activations[0].ndim == 4:
        return _sample_reading(layer, activations[0], backprops)
    return _sample_writing(layer, activations[0], backprops)


def _sample_reading(layer: LinearPath, centred: torch.Tensor, by_latent: torch.Tensor) -> Samples:
    numbers, slope = describe(centred, layer.grid), by_latent.transpose(0, 1)
    read = torch.bmm(numbers, layer.basis.detach().transpose(1, 2))
    return {
        layer.gain_in: (slope * read).transpose(0, 1).unsqueeze(2),
        layer.basis: _outer(slope * layer.gain_in.detach(), numbers),
    }


def _sample_writing(layer: LinearPath, latent: torch.Tensor, by_images: torch.Tensor) -> Samples:
    cells, basis, gain = latent.transpose(0, 1), layer.basis.detach(), layer.gain_out.detach()
    with torch.enable_grad():  # drawing is linear: its gradient anywhere is its transpose
        numbers = basis.new_zeros(len(basis), len(latent), basis.shape[2], requires_grad=True)
        drawn = draw(numbers, layer.grid, layer.channels, layer.patch)
        (slope,) = torch.autograd.grad(drawn, numbers, by_images)
    return {
        layer.gain_out: (cells * torch.bmm(slope, basis.transpose(1, 2))).transpose(0, 1)[
            :, :, None
        ],
        layer.basis: _outer(cells * gain, slope),
        layer.mean_image: by_images.unsqueeze(1).clone(),
    }


def _outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `[N, cells, a, b]` of `[cells, N, a]` and `[cells, N, b]`."""
    (cells, count, rows), columns = left.shape, right.shape[2]
    product = left.new_empty(count, cells, rows, columns)
    return torch.mul(
        left.transpose(0, 1)[..., None], right.transpose(0, 1)[:, :, None], out=product
    )


class Tape:
    """Records gradients per image of all parameters that learn; a context that owns the hooks.

    The images of a second, smaller use of the encoder (the cycle term) must be the first images
    of the batch: their gradients add to those of the first use.

    Args:
        model: its parameters that require a gradient are recorded into `parameter.grad_sample`.

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
            del parameter.grad_sample

    def sample(
        self, given: torch.Tensor, losses_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Set `grad_sample`, `[N, *shape]`, of every parameter that learns.

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
        left_out = sum(getattr(p, "grad_sample", None) is None for p in self._learning)
        if left_out:
            raise ValueError(f"{left_out} parameters that learn have no part in the losses")

    def spread(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return one copy of a parameter `[1, ...]` per image, `[N, ...]`, and record its gradient.

        For parameters that no layer owns: what is computed with copy i may touch loss i alone.
        """
        copies = parameter.detach().expand(self._images, *parameter.shape[1:])
        if parameter not in set(self._learning):
            return copies
        copies = copies.requires_grad_()
        copies.register_hook(lambda slope: self._record({parameter: slope.unsqueeze(1)}))  # type: ignore[no-untyped-call]
        return copies

    def _begin(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._count = given[1] if len(given) > 1 else len(given[0])

    def _see_centred(self, _: nn.Module, given: tuple[torch.Tensor]) -> None:
        path = self._model.linear_path
        if path is not None and given[0].requires_grad:
            mean = path.mean_image
            given[0].register_hook(lambda slope: self._record({mean: -slope.unsqueeze(1)}))  # type: ignore[no-untyped-call]

    def _see(self, layer: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if not output.requires_grad:
            return
        seen, count = given[0].detach(), self._count
        rows = type(layer) in ROW_LAYERS

        def record(slope: torch.Tensor) -> None:
            if rows:
                parts = [part.reshape(count, -1, part.shape[1]) for part in (seen, slope)]
            else:
                parts = [seen, slope]
            wanted = list(layer.parameters(recurse=False))
            for parameter in wanted:
                parameter.requires_grad_(True)
            try:
                with torch.no_grad():
                    self._record(_registry()[type(layer)](layer, [parts[0]], parts[1]))
            finally:
                for parameter in wanted:
                    parameter.requires_grad_(False)

        output.register_hook(record)  # type: ignore[no-untyped-call]

    def _record(self, samples: Samples) -> None:
        for parameter, found in samples.items():
            earlier = parameter.grad_sample
            if earlier is not None:
                few, many = sorted((earlier, found), key=len)
                many[: len(few)] += few
            parameter.grad_sample = found if earlier is None else many

    def _forget(self) -> None:
        for parameter in self._learning:
            parameter.grad_sample = None


def _registry() -> dict[type[nn.Module], Callable[..., Samples]]:
    found: dict[type[nn.Module], Callable[..., Samples]] = GradSampleHooks.GRAD_SAMPLERS
    return found
