"""Head changes and audit counts that no images can give are refused before they are added."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.atlas import atlas_from
from mfm_core.errors import UpdateRejected
from mfm_core.explanation_sums import empty_explanation_sum
from mfm_core.flips import flip_sum
from mfm_core.head import Head
from mfm_core.latent_sums import latent_sum
from mfm_core.mitigation import head_round_sum
from mfm_core.subgroups import subgroup_sum
from mfm_core.sums import Sum
from strategies import wire
from strategies.answers import Answer, joined
from strategies.checks import check_audit, check_heads
from strategies.collector import Collector, Identity
from strategies.config import AggregationConfig
from strategies.plan import Step
from strategies.rounds import Site
from tests.server.hospitals import RUN

IMAGES = 60


def honest() -> Sum:
    """Return the audit counts of 60 images of 30 patients, small cells and unknown values too."""
    rng = np.random.default_rng(0)
    labels, patients = np.repeat(np.arange(30) % 2, 2), np.repeat(np.arange(30), 2)
    views = rng.integers(-1, 2, (IMAGES, 1))
    mu = rng.normal(size=(IMAGES, 3)) + labels[:, None]
    atlas = atlas_from(latent_sum(mu, labels, views, patients, RUN.ontology), RUN.ontology, "")
    head = Head(rng.normal(size=(2, 3)).astype(np.float32), np.zeros(2, dtype=np.float32))
    cells = (labels, views, patients)
    explained = empty_explanation_sum(RUN.ontology)
    explained["scored"][:] = 4.0
    explained["cycle"][:, 3] = 4.0
    explained["suppressed"][:] = len(explained.arrays) - 3
    parts = {
        "subgroups/chosen": subgroup_sum(head.logits(mu), *cells, RUN.ontology, smallest=3, seed=1),
        "flips/chosen": flip_sum(mu, *cells, atlas, head),
        "explanations": explained,
    }
    return joined(parts)


@pytest.mark.parametrize("images", [IMAGES, 1_000_000])
def test_honest_counts_pass(images: int) -> None:
    check_audit(honest(), images)
    check_audit(Sum({name: 0 * array for name, array in honest().arrays.items()}), 0)


LIES = {
    "a negative histogram": ("explanations/cycle", (0, 3), -5.0),
    "more patients than were scored": ("explanations/iou.class_shift", (0, 3), 5.0),
    "more cells withheld than there are": ("explanations/suppressed", (0,), 1e6),
    "a huge histogram": ("explanations/spearman", (0, 0), 1e9),
    "more flips than patients": ("flips/chosen/flip.view.flipped", (0, 0), 31.0),
    "negative flips": ("flips/chosen/flip.view.flipped", (0, 0), -31.0),
    "more patients than images": ("flips/chosen/flip.view.count", (0, 0), 61.0),
    "scores that nobody decided on": ("subgroups/chosen/scores", (0, 0, 0, 0), 1.0),
    "groups that are not the whole": ("subgroups/chosen/group.scores", (0, 0, 0, 0, 0), 1.0),
    "a decision too many": ("subgroups/chosen/group.decisions", (0, 0, 0, 0), 1.0),
    "a negative decision": ("subgroups/chosen/group.decisions", (0, 0, 0, 0), -100.0),
    "confidence beyond the images": ("subgroups/chosen/group.excess", (0, 0, 0, 0), 1e8),
    "patients without images": ("subgroups/chosen/patients", (0, 0), 60.0),
}


@pytest.mark.parametrize("lie", LIES)
def test_audit_counts_that_cannot_be_are_refused(lie: str) -> None:
    name, place, amount = LIES[lie]
    total = honest()
    total[name][place] += amount
    with pytest.raises(UpdateRejected) as caught:
        check_audit(total, IMAGES)
    assert caught.value.reason == "counts"


def test_fewer_declared_images_than_counted_are_refused() -> None:
    with pytest.raises(UpdateRejected, match="outside 0 to 5"):
        check_audit(honest(), 5)


def heads(size: float, images: int) -> Sum:
    """Return one site's part of a round that moves a head by a norm of `size`."""
    before = Head(np.zeros((1, 4), dtype=np.float32), np.zeros(1, dtype=np.float32))
    after = Head(np.full((1, 4), size / 2, dtype=np.float32), np.zeros(1, dtype=np.float32))
    return head_round_sum({"erm": before}, {"erm": after}, images)


@pytest.mark.parametrize(
    ("total", "reason"),
    [
        (heads(9.0, 10), None),
        (heads(0.0, 0), None),
        (heads(11.0, 10), "norm"),
        (heads(1.0, 11), "counts"),
        (Sum({**heads(1.0, 10).arrays, "images": np.zeros(1)}), "norm"),
        (Sum({**heads(0.0, 0).arrays, "images": np.array([-1.0])}), "counts"),
    ],
)
def test_a_site_moves_heads_by_no_more_than_agreed(total: Sum, reason: str | None) -> None:
    if reason is None:
        check_heads(total, 10, 10.0)
        return
    with pytest.raises(UpdateRejected) as caught:
        check_heads(total, 10, 10.0)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("kind", "number"), [("mitigate", 1), ("audit", 0)])
def test_the_collector_refuses_both_and_adds_nothing(kind: str, number: int) -> None:
    bad = heads(1e9, 5) if kind == "mitigate" else honest()
    step = Step(kind, number)  # type: ignore[arg-type]
    identity = Identity("c" * 64, "d" * 64, (), (), AggregationConfig())
    collector = Collector(identity, step, Answer(False, bad.schema), lambda total, images: {})
    header = wire.Header(kind, number, "c" * 64, "d" * 64, site="liar", num_images=5)
    with pytest.raises(UpdateRejected):
        collector.add(Site(1, "liar"), wire.encode(header, wire.Payload(total=bad), ()))
    pooled = collector.result()
    assert pooled.images == 0 and not pooled.of_site
    assert pooled.total is not None and not pooled.total.flatten().any()
