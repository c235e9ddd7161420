"""A head from own pseudo-labels: atlas and sums are one, nothing taken changes nothing."""

from __future__ import annotations

import numpy as np

from mfm_core.config import PseudoLabelConfig
from mfm_core.head import Head, fit_heads
from mfm_core.local_head import class_sums_of, local_head
from mfm_core.pseudo_labels import class_atlas
from tests.mfm_core.test_pseudo_labels import CLASSES, draw, learnt

CONFIG = PseudoLabelConfig(from_round=1)


def test_an_atlas_gives_its_sums_back() -> None:
    atlas = learnt(300, 16, 4.0)
    again = class_atlas(class_sums_of(atlas), CLASSES)
    assert again is not None
    assert np.allclose(again.means, atlas.means) and np.allclose(again.counts, atlas.counts)
    assert np.allclose(again.covariance, atlas.covariance)


def test_where_nothing_can_be_labelled_the_head_is_the_same() -> None:
    atlas = learnt(300, 16, 4.0)
    head = fit_heads(atlas, (0.3,))[0]
    mu, _ = draw(50, 16, 4.0, seed=1)
    mu[:, -1] += 50.0
    found, taken = local_head(head, atlas, mu, np.arange(50), CONFIG)
    assert found is head and taken == 0


def test_unlabelled_images_make_a_better_head_than_a_few_labelled_patients() -> None:
    few = learnt(24, 64, 5.0, seed=1)  # means of eight patients each
    mu, truth = draw(900, 64, 5.0, seed=11)
    head = fit_heads(few, (0.6,))[0]
    found, taken = local_head(head, few, mu[:600], np.arange(600), CONFIG)

    def right(one: Head) -> float:
        return float((one.logits(mu[600:]).argmax(axis=1) == truth[600:]).mean())

    assert taken > 100
    assert right(found) > right(head) + 0.03
