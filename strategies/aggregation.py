"""How accepted updates become the next global model: FedAvg, FedProx, SCAFFOLD, FedAdam, FedYogi.

Pure functions over a small frozen state, on flat vectors. The formulas are Flower's
(flwr.serverapp.strategy), which a test holds them to, so runs stay comparable. FedProx differs
from FedAvg only at the site (a proximal term in the loss), and so does SCAFFOLD but for the mean
gradient of all sites, which the server sends along (`mfm_core.control_variates`).

Sources: FedAvg, McMahan et al. 2017 (arXiv:1602.05629); FedProx, Li et al. 2020
(arXiv:1812.06127); FedAdam and FedYogi, Reddi et al. 2021 (arXiv:2003.00295), Algorithm 2, with
the bias-corrected step of Kingma and Ba 2014 for FedAdam. What crosses the boundary: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfm_core.sums import Array
from strategies.config import AggregationConfig

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class ServerState:
    """What the server's optimiser remembers between rounds.

    Attributes:
        rounds: rounds applied so far.
        first_moment: `[D] float64`; `[0]` for the others, which remember nothing.
        second_moment: `[D] float64`, likewise.
    """

    rounds: int
    first_moment: Array
    second_moment: Array


def init(config: AggregationConfig, size: int) -> ServerState:
    """Return the state before the first round of a model of `size` numbers."""
    remembered = size if config.kind in ("fedadam", "fedyogi") else 0
    return ServerState(0, np.zeros(remembered), np.zeros(remembered))


def apply(
    config: AggregationConfig, state: ServerState, weights: Weights, update: Array
) -> tuple[ServerState, Weights]:
    """Return the state and the global weights after one more round.

    Args:
        config: the agreed aggregation.
        state: from `init` or the round before.
        weights: `[D] float32`, the global weights that the sites started from.
        update: `[D] float64`, mean of the sites' weight changes, weighted by images.
    """
    following = state.rounds + 1
    if config.kind not in ("fedadam", "fedyogi"):
        changed = (weights + update).astype(np.float32)
        return ServerState(following, state.first_moment, state.second_moment), changed
    first = config.beta_1 * state.first_moment + (1 - config.beta_1) * update
    square = update**2
    if config.kind == "fedadam":
        second = config.beta_2 * state.second_moment + (1 - config.beta_2) * square
        rate = config.server_learning_rate * _bias_correction(config, following)
    else:
        sign = np.sign(state.second_moment - square)
        second = state.second_moment - (1 - config.beta_2) * square * sign
        rate = config.server_learning_rate
    step = rate * first / (np.sqrt(second) + config.tau)
    return ServerState(following, first, second), (weights + step).astype(np.float32)


def _bias_correction(config: AggregationConfig, number: int) -> float:
    """Return Flower's correction of round `number`, counted from 1 (its exponent is one more)."""
    upper = np.sqrt(1 - config.beta_2 ** (number + 1.0))
    return float(upper / (1 - config.beta_1 ** (number + 1.0)))
