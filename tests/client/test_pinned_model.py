"""Weights that draw an image out of a gradient are refused where they are unusual, before work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from client.app import app
from client.pinned_model import check_weights, graph_hash
from client.site import Site, close_sites, open_site
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import flat_weights
from mfm_core.config import dump_yaml
from mfm_core.errors import UpdateRejected
from mfm_core.linear_path import describe, draw
from mfm_core.objective import objective
from strategies import wire
from strategies.code_hash import code_hash
from strategies.config import RunConfig
from strategies.rounds import REFUSED
from tests.server.hospitals import RUN, lay_out, site_config

OPEN_RUN = RunConfig.model_validate(
    {
        **RUN.model_dump(),
        "model": {**RUN.model.model_dump(), "latent_channels": 64},
        "mitigation": {},
        "audit": {"enabled": False},
    }
)
"""As many latent numbers as pixels, so that a whole image fits into one row of the head."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return lay_out(tmp_path_factory.mktemp("trap"), ("north",), OPEN_RUN)


@pytest.fixture
def site(folder: Path) -> Site:
    close_sites()
    dump_yaml(site_config("north"), folder / "sites" / "0.yaml")
    return open_site(folder / "sites" / "0.yaml")


def batch_of(site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all training images and their labels."""
    chosen = site.images.select("train")
    return site.images.batch(chosen), torch.from_numpy(site.images.labels[chosen])


def set_trap(
    site: Site, sharpness: float, gain: float = 1.0, folded: bool = False
) -> tuple[Autoencoder, int]:
    """Return a model whose head learns from one image alone, and which one.

    The linear path hands the pixels through; the head is sure of every image but the one whose
    score is lowest, so hardly more than that one's latent, its pixels, enters the gradient.
    `folded`: the large bias that this takes is hidden in the mean image.
    """
    model = build_autoencoder(OPEN_RUN.model, OPEN_RUN.image, 2, OPEN_RUN.seed)
    images, labels = batch_of(site)
    path = model.linear_path
    assert path is not None
    with torch.no_grad():
        path.basis.copy_(torch.eye(path.basis.shape[1]).expand_as(path.basis))
        path.gain_in.fill_(gain)
        mu = model.encode(images)[0]
        right = labels == 1
        score = mu[right].mean(0) - mu[~right].mean(0)
        score /= score.abs().max()
        found = mu @ score
        lowest, second = found[right].sort().values[:2]
        caught = int(torch.where(right)[0][found[right].argmin()])
        cut = float((lowest + second) / 2)
        model.head.weight.zero_()
        model.head.weight[1] = sharpness * score
        if folded:
            cells = (score * cut / (gain * score.square().sum())).view(1, 16, 64).transpose(0, 1)
            path.mean_image.add_(draw(cells, 4, 1, 8))
        else:
            model.head.bias.copy_(torch.tensor([0.0, -sharpness * cut]))
    return model, caught


def learnt_image(model: Autoencoder, site: Site) -> NDArray[np.float64]:
    """Return the pixels that the gradient of the head's second row holds, `[1024]`.

    The gradient is of the whole objective of one batch; the rest the server knows itself.
    """
    images, labels = batch_of(site)
    output = model(images, torch.Generator().manual_seed(0))
    weights = OPEN_RUN.learning.objective
    terms = objective(output, images, labels, weights, (0, model.attention_logits), torch.zeros(()))
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert model.head.weight.grad is not None and model.head.bias.grad is not None
    assert model.linear_path is not None
    mu = (model.head.weight.grad[1] / model.head.bias.grad[1]).double()
    mean = flat(model.linear_path.mean_image.detach())
    return (mu / float(model.linear_path.gain_in.detach()[0, 0, 0])).numpy() + mean


def likeness(found: NDArray[np.float64], site: Site, number: int) -> float:
    """Return the correlation of what a gradient holds with one image of the batch."""
    pixels = flat(batch_of(site)[0][number : number + 1])
    return float(np.corrcoef(found, pixels)[0, 1])


def flat(image: torch.Tensor) -> NDArray[np.float64]:
    """Return the pixels `[1024]` of one image in the order of the latent."""
    pixels: NDArray[np.float64] = describe(image, 4).transpose(0, 1).flatten().double().numpy()
    return pixels


def others(found: NDArray[np.float64], site: Site, number: int) -> float:
    count = len(batch_of(site)[0])
    return max(likeness(found, site, other) for other in range(count) if other != number)


def test_a_trap_copies_one_image_and_is_refused_before_anything_is_computed(
    site: Site, folder: Path
) -> None:
    model, caught = set_trap(site, sharpness=1000.0)
    found = learnt_image(model, site)
    assert likeness(found, site, caught) > 0.9 > others(found, site, caught) + 0.2
    header = wire.Header("train", 1, site.config_hash, code_hash())
    record = wire.encode(header, wire.Payload(flat_weights(model)), site.schema)
    place = {"sites-folder": str(folder / "sites")}
    context = Context(1, 5, {"partition-id": 0}, RecordDict(), place)
    reply = app(Message(record, 5, "train", group_id="1"), context)
    assert (reply.error.code, reply.error.reason) == (REFUSED, "weights")


def test_without_the_trap_no_image_stands_out(site: Site) -> None:
    plain = build_autoencoder(OPEN_RUN.model, OPEN_RUN.image, 2, OPEN_RUN.seed)
    found = learnt_image(plain, site)
    best = max(likeness(found, site, number) for number in range(len(batch_of(site)[0])))
    assert best < 0.9


def test_a_trap_within_the_ranges_is_not_noticed(site: Site) -> None:
    """What the ranges cannot do, held here so that nobody claims it: noise is the answer."""
    model, caught = set_trap(site, sharpness=8.0, gain=150.0, folded=True)
    assert likeness(learnt_image(model, site), site, caught) > 0.9
    check_weights(site, "train", flat_weights(model))


@pytest.mark.parametrize(
    ("tensor", "factor"),
    [("encoder.first.weight", 1000.0), ("encoder.first.weight", 0.0), ("head.bias", np.nan)],
)
def test_weights_out_of_range_are_named(site: Site, tensor: str, factor: float) -> None:
    model = build_autoencoder(OPEN_RUN.model, OPEN_RUN.image, 2, OPEN_RUN.seed)
    with torch.no_grad():
        dict(model.named_parameters())[tensor].mul_(factor)
    with pytest.raises(UpdateRejected, match=tensor) as caught:
        check_weights(site, "train", flat_weights(model))
    assert caught.value.reason == "weights"


def test_new_weights_and_large_closed_form_heads_pass(site: Site) -> None:
    weights = site.starting_weights.copy()
    check_weights(site, "train", weights)
    weights[-2:] = 1e6
    check_weights(site, "latent_sums", weights)
    with pytest.raises(UpdateRejected, match=r"head\.bias"):
        check_weights(site, "train", weights)


def test_only_the_pinned_architecture_is_computed_with(site: Site, folder: Path) -> None:
    wider = OPEN_RUN.model.model_copy(update={"norm_channels": 16})
    other = graph_hash(build_autoencoder(wider, OPEN_RUN.image, 2, 0))
    assert graph_hash(site.model) == graph_hash(
        build_autoencoder(OPEN_RUN.model, OPEN_RUN.image, 2, 9)
    )
    assert other != graph_hash(site.model)  # the same names and shapes, another layer
    dump_yaml(site_config("north", graph=other), folder / "sites" / "0.yaml")
    close_sites()
    strict = open_site(folder / "sites" / "0.yaml")
    header = wire.Header("train", 1, strict.config_hash, code_hash())
    record = wire.encode(header, wire.Payload(strict.starting_weights), strict.schema)
    place = {"sites-folder": str(folder / "sites")}
    context = Context(1, 5, {"partition-id": 0}, RecordDict(), place)
    reply = app(Message(record, 5, "train", group_id="1"), context)
    assert (reply.error.code, reply.error.reason) == (REFUSED, "graph")
