"""The model of a run as flat weights: made, read, given another head, moved by a round's update.

What crosses a hospital's boundary: nothing here; weights go to every site, updates come back.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import flat_weights, load_flat_weights, weight_schema
from mfm_core.finetuning import with_update
from mfm_core.head import Head
from mfm_core.sums import Array
from strategies import aggregation
from strategies.config import RunConfig
from strategies.plan import shared_seed
from strategies.strategy import RunState


def new_model(run: RunConfig) -> Autoencoder:
    """Return the run's model with its seeded starting weights."""
    return build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)


def model_with(run: RunConfig, weights: NDArray[np.float32]) -> Autoencoder:
    """Return the run's model with the given flat weights."""
    model = new_model(run)
    load_flat_weights(model, weights)
    return model.eval()


def attention_slice(run: RunConfig) -> slice:
    """Return where the attention logits lie in the flat weights."""
    start = 0
    for name, shape in weight_schema(new_model(run)):
        size = math.prod(shape)
        if name == "attention_logits":
            return slice(start, start + size)
        start += size
    raise AssertionError("the model has no attention logits")


def head_of(run: RunConfig, weights: NDArray[np.float32]) -> Head:
    """Return the head in the weights."""
    head = model_with(run, weights).head
    return Head(head.weight.detach().numpy(), head.bias.detach().numpy())


def with_head(run: RunConfig, weights: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Return the weights with another head."""
    model = model_with(run, weights)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))
    return flat_weights(model)


def next_weights(
    run: RunConfig, state: RunState, update: Array
) -> tuple[aggregation.ServerState, NDArray[np.float32]]:
    """Return optimiser state and weights after the mean update of a round.

    Where a part learns, the optimiser sees that part alone: its step is an update like any other.
    """
    if run.learning.trainable == "all":
        return aggregation.apply(run.aggregation, state.server, state.weights, update)
    still = np.zeros(len(update), dtype=np.float32)
    server, step = aggregation.apply(run.aggregation, state.server, still, update)
    model = model_with(run, state.weights)
    return server, with_update(model, run.learning, shared_seed(run), step)
