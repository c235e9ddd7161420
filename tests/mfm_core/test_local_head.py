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
    found, labels = local_head(head, atlas, mu, np.arange(50), CONFIG)
    assert found is head and (labels == -1).all()


def test_unlabelled_images_make_a_better_head_than_a_few_labelled_patients() -> None:
    few = learnt(24, 64, 5.0, seed=1)  # means of eight patients each
    mu, truth = draw(900, 64, 5.0, seed=11)
    head = fit_heads(few, (0.6,))[0]
    found, labels = local_head(head, few, mu[:600], np.arange(600), CONFIG)

    def right(one: Head) -> float:
        return float((one.logits(mu[600:]).argmax(axis=1) == truth[600:]).mean())

    assert (labels >= 0).sum() > 100
    assert right(found) > right(head) + 0.03


def test_another_scanner_is_met_by_its_own_mean_and_directions() -> None:
    atlas = learnt(240, 32, 4.0)
    head = fit_heads(atlas, (0.3,))[0]
    mu, truth = draw(900, 32, 4.0, seed=7)
    generator = np.random.default_rng(3)
    mu += 3.0 * generator.normal(size=32)  # every latent of that scanner moved alike
    mu[:, 8:] *= 3.0  # and the noise that no head looks at is louder
    moving = CONFIG.model_copy(update={"own_mean": True})
    people = np.arange(600)
    same, none = local_head(head, atlas, mu[:600], people, moving)
    assert same is head and (none == -1).all()  # in all directions it is too far off
    _, wrong = local_head(head, atlas, mu[:600], people, CONFIG, head)
    found, labels = local_head(head, atlas, mu[:600], people, moving, head)
    taken = labels >= 0
    assert taken.sum() > 300 and (labels[taken] == truth[:600][taken]).mean() > 0.9
    assert (wrong >= 0).sum() == 0 or (wrong == truth[:600])[wrong >= 0].mean() < 0.8

    def right(one: Head) -> float:
        return float((one.logits(mu[600:]).argmax(axis=1) == truth[600:]).mean())

    assert right(found) > right(head) + 0.1  # it takes latents as they are
