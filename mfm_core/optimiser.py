"""AdamW, gradient clip, proximal pull, control variate and moving average on one flat vector.

All weights that learn lie in one buffer during a training call, and the model's parameters are
views of it: a step is then a handful of passes over memory, not thousands of small calls.
Nothing here crosses the hospital's boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch

from mfm_core.autoencoder import Autoencoder
from mfm_core.config import TrainingConfig
from mfm_core.control_variates import ControlVariate

MAP_RATE = 20.0
"""Rate of the attention map over that of the weights. AdamW moves a logit by about the rate in each
step, so at the rate of the weights a short stage one leaves W between .999 and 1.001."""

Named = Sequence[tuple[str, torch.nn.Parameter]]


def _sort_into_groups(
    named: Named, linear_rate: float
) -> list[tuple[float, bool, list[torch.nn.Parameter]]]:
    """Return (rate, decays, parameters): no decay on norms, biases, linear path and attention.

    Nor on the B of a low-rank change (`mfm_core.lora`), which starts at zero: that is its decay.
    """
    linear, decayed, plain, maps = [], [], [], []
    for name, parameter in named:
        if name.startswith("linear_path."):
            linear.append(parameter)
        elif name == "attention_logits":
            maps.append(parameter)
        elif parameter.ndim > 1 and "parametrizations" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [(1.0, True, decayed), (1.0, False, plain), (linear_rate, False, linear)]
    groups.append((MAP_RATE, False, maps))
    return [group for group in groups if group[2]]


class _Drift:
    """A control variate at work: adds it to raw gradients, which it sums up."""

    def __init__(
        self, control: ControlVariate, model: Autoencoder, parameters: list[torch.nn.Parameter]
    ) -> None:
        self._control = control
        self._correction, self._places = control.lay_out(model, parameters)
        self._total, self._steps = torch.zeros_like(self._correction), 0

    def correct(self, gradient: torch.Tensor) -> None:
        self._total.add_(gradient)
        gradient.add_(self._correction)
        self._steps += 1

    def finish(self) -> None:
        self._control.keep(self._total, self._places, self._steps)


class FlatOptimiser:
    """Steps all parameters that require a gradient; a context, since it borrows their memory.

    On leaving, the parameters own their memory again and hold the moving average if every step
    went well.

    Args:
        model: its parameters become views of one buffer.
        config: of the optimiser.
        proximal_mu: FedProx weight mu of mu/2 |w - w0|^2, w0 the weights at the start.
        control: corrects every gradient and is told their mean.
    """

    def __init__(
        self,
        model: Autoencoder,
        config: TrainingConfig,
        proximal_mu: float,
        control: ControlVariate | None = None,
    ) -> None:
        self._config, self._proximal_mu = config, proximal_mu
        named = [item for item in model.named_parameters() if item[1].requires_grad]
        groups = _sort_into_groups(named, config.linear_rate)
        self._parameters = [parameter for _, _, part in groups for parameter in part]
        self._weights = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        self._gradient = torch.zeros_like(self._weights)
        self._average = self._weights.clone()
        self._start = self._weights.clone() if proximal_mu > 0 else None
        self._drift = None if control is None else _Drift(control, model, self._parameters)
        slices, begin = [], 0
        for rate, decays, part in groups:
            size = sum(parameter.numel() for parameter in part)
            piece = self._weights[begin : begin + size].requires_grad_()
            piece.grad = self._gradient[begin : begin + size]
            decay = config.weight_decay if decays else 0.0
            slices.append({"params": [piece], "weight_decay": decay, "rate": rate})
            begin += size
        self._adamw = torch.optim.AdamW(slices, lr=config.learning_rate, fused=True)

    def __enter__(self) -> Self:
        """Lay the parameters into the buffer."""
        begin = 0
        for parameter in self._parameters:
            end = begin + parameter.numel()
            parameter.data = self._weights[begin:end].detach().view(parameter.shape)
            parameter.grad = self._gradient[begin:end].view(parameter.shape)
            begin = end
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the parameters memory of their own, with the average unless there was an error."""
        source = self._average if kind is None else self._weights.detach()
        begin = 0
        for parameter in self._parameters:
            end = begin + parameter.numel()
            parameter.data = source[begin:end].view(parameter.shape).clone()
            parameter.grad = None
            begin = end
        if self._drift is not None and kind is None:
            self._drift.finish()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All parameters that learn, in the order of the buffer."""
        return self._parameters

    @property
    def gradient(self) -> torch.Tensor:
        """The gradients of all parameters that learn, one flat vector."""
        return self._gradient

    def clear(self) -> None:
        """Set all gradients to zero."""
        self._gradient.zero_()

    @torch.no_grad()
    def step(self, learning_rate: float, decay: float) -> float:
        """Take one step with the gradients at hand; return the proximal term, 0 without one.

        Args:
            learning_rate: of this step.
            decay: of the moving average in this step.
        """
        proximal = 0.0
        if self._drift is not None:
            self._drift.correct(self._gradient)
        if self._start is not None:
            apart = self._weights - self._start
            self._gradient.add_(apart, alpha=self._proximal_mu)
            proximal = 0.5 * self._proximal_mu * float(apart.square().sum())
        norm = torch.linalg.vector_norm(self._gradient)
        self._gradient.mul_((self._config.max_grad_norm / (norm + 1e-6)).clamp_max(1.0))
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self._adamw.step()
        self._average.lerp_(self._weights, 1.0 - decay)
        return proximal
