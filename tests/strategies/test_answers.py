"""What was agreed to be sent is what the real functions make, for any number of images."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.dataset import ImageSet
from mfm_core.errors import ConfigError
from mfm_core.evaluation import metric_sum
from mfm_core.head import SHRINKAGES, Head, candidate_sum
from mfm_core.latent_sums import latent_sum
from mfm_core.objective import TERM_NAMES
from mfm_core.patches import patch_moments
from mfm_core.sums import Sum
from strategies.answers import (
    answer_of,
    heads_sum,
    joined,
    latent_size,
    part_of,
    read_heads,
    read_training_sum,
    refuse_too_large,
    request_schema,
    training_sum,
    with_suppressed,
    zero_head,
)
from strategies.config import RunConfig

RUN = RunConfig.model_validate(
    {
        "name": "t",
        "ontology": {"classes": ["a", "b", "c"], "attributes": {"sex": ["F", "M"]}},
        "image": {"size_px": 32},
        "model": {"widths": [16, 32], "depths": [1, 1], "groups": 2, "latent_channels": 4},
        "statistics": {"bootstrap_replicates": 3},
    }
)
LATENT = latent_size(RUN)


def rows(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(images)
    return (
        generator.normal(size=(images, LATENT)),
        generator.integers(-1, 3, images),
        generator.integers(-1, 2, (images, 1)),
        generator.integers(0, 5, images),
    )


@pytest.mark.parametrize("images", [0, 1, 9])
def test_latent_sums_heads_and_metrics(images: int) -> None:
    mu, labels, attributes, patients = rows(images)
    found = with_suppressed(latent_sum(mu, labels, attributes, patients, RUN.ontology), 0)
    assert found.schema == answer_of(RUN, "latent_sums").total
    heads = (zero_head(RUN),) * (1 + len(SHRINKAGES))
    assert candidate_sum(mu, labels, heads).schema == answer_of(RUN, "heads").total
    logits, ssim = np.zeros((images, 3)), np.zeros(images)
    found = metric_sum(logits, labels, ssim, patients, 3, seed=1)
    assert found.schema == answer_of(RUN, "evaluate").total
    found = training_sum(
        metric_sum(logits, labels, ssim, patients, 0, seed=1), dict.fromkeys(TERM_NAMES, 0.5), 9
    )
    answer = answer_of(RUN, "train")
    assert answer.update and found.schema == answer.total


def test_patch_moments() -> None:
    pixels = np.zeros((4, 1, 32, 32), dtype=np.uint8)
    nobody = np.zeros(4, dtype=np.int64)
    images = ImageSet(pixels, nobody, np.zeros((4, 1), dtype=np.int64), nobody, nobody)
    found = patch_moments(images, np.arange(4), RUN.model)
    assert found.schema == answer_of(RUN, "patch_moments").total


def test_only_training_sends_weights_and_the_atlas_is_answered_with_nothing() -> None:
    kinds = ("hello", "patch_moments", "train", "latent_sums", "heads", "evaluate", "atlas")
    assert [kind for kind in kinds if answer_of(RUN, kind).update] == ["train"]
    assert answer_of(RUN, "atlas").total is None


def test_a_joined_sum_is_its_parts() -> None:
    one, two = Sum({"x": np.ones(2)}), Sum({"x": np.zeros(1), "y": np.ones((2, 2))})
    whole = joined({"a": one, "b": two})
    assert part_of(whole, "a").schema == one.schema
    assert part_of(whole, "b").schema == two.schema
    assert not part_of(whole, "c").arrays


def test_fedprox_reports_its_term() -> None:
    changed = {"kind": "fedprox", "proximal_mu": 0.1}
    prox = RUN.model_validate({**RUN.model_dump(), "aggregation": changed})
    names = {name for name, _ in answer_of(prox, "train").total or ()}
    assert "loss.proximal" in names


def test_merged_training_sums_are_means_by_images() -> None:
    validation = Sum({"ssim": np.array([1.0, 2.0])})
    one = training_sum(validation, {"loss": 1.0}, 30)
    two = training_sum(validation, {"loss": 4.0}, 10)
    merged, loss = read_training_sum(one.merge(two), 40)
    assert loss == {"loss": 1.75}
    assert merged["ssim"].tolist() == [2.0, 4.0]


def test_heads_travel_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    heads = tuple(
        Head(generator.normal(size=(3, LATENT)).astype(np.float32), np.float32([1, 2, number]))
        for number in range(1 + len(SHRINKAGES))
    )
    found = heads_sum(heads)
    assert found.schema == request_schema(RUN, "heads")
    for sent, received in zip(heads, read_heads(found), strict=True):
        assert sent.weight.tobytes() == received.weight.tobytes()
        assert sent.bias.tobytes() == received.bias.tobytes()


def test_a_run_whose_sums_no_site_would_let_pass_is_refused_before_it_begins() -> None:
    refuse_too_large(RUN)
    classes = [f"class {number}" for number in range(15)]
    values = [f"value {number}" for number in range(32)]
    ontology = {"classes": classes, "attributes": {"scanner": values}}
    mitigation = {"attribute": "scanner"}
    run = RUN.model_validate({**RUN.model_dump(), "ontology": ontology, "mitigation": mitigation})
    with pytest.raises(ConfigError, match=r"reply of audit would hold .* MiB") as caught:
        refuse_too_large(run)
    assert "mitigation.methods" in caught.value.problems[0]
