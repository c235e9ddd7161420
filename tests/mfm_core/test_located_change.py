"""The located change: the drawing is the smallest change, the map lies where the finding is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mfm_core import located_change as located
from mfm_core.counterfactual import counterfactual
from mfm_core.located_change import located_change
from mfm_core.question import Question
from tests.mfm_core.blob_world import CLASSES, blob_world


def test_frames_are_those_of_the_smallest_change():
    world = blob_world()
    image, question = world.image(world.first(1)), Question("left blob")
    found = located_change(world.model, world.atlas, image, question)
    plain = counterfactual(world.model, world.atlas, image, question)
    assert found.method == "located_change"
    np.testing.assert_array_equal(found.sweep.images, plain.sweep.images)
    assert found.figures == plain.figures


@pytest.mark.parametrize("label", [1, 2])
def test_the_map_lies_where_the_image_supports_the_change(label, monkeypatch):
    world = blob_world()
    image = world.image(world.first(label))
    half = image.shape[-1] // 2
    side = np.s_[:, :half] if label == 1 else np.s_[:, half:]

    def share():
        question = Question(CLASSES[label])
        saliency = located_change(world.model, world.atlas, image, question).saliency
        return saliency[side].sum() / saliency.sum()

    assert share() > 0.5
    evidence = torch.zeros(1, *image.shape)
    evidence[(0, 0, *side)] = 1.0
    monkeypatch.setattr(located, "evidence_from", lambda *arguments: evidence)
    assert share() > 0.9, "the change on the other side is not supported by the image"


def test_no_place_counts_where_one_of_the_two_is_silent(monkeypatch):
    world = blob_world()
    image, question = world.image(world.first(1)), Question("left blob")
    evidence = torch.zeros(1, *image.shape)
    monkeypatch.setattr(located, "evidence_from", lambda *arguments: evidence)
    found = located_change(world.model, world.atlas, image, question)
    assert not found.saliency.any()
    evidence -= 1.0
    assert not located_change(world.model, world.atlas, image, question).saliency.any()


def test_the_reference_is_the_picture_of_those_without_the_finding(monkeypatch):
    world = blob_world()
    seen = []

    def keep(model, asked, start):
        seen.append(start)
        return torch.zeros_like(start)

    monkeypatch.setattr(located, "evidence_from", keep)
    image = world.image(world.first(1))
    for versus, origin in (
        (None, world.atlas.others_mean("left blob")),
        ("right blob", world.atlas.means[2]),
    ):
        located_change(world.model, world.atlas, image, Question("left blob", versus))
        with torch.no_grad():
            drawn = world.model.decode(torch.from_numpy(origin.astype(np.float32))[None])
        torch.testing.assert_close(seen[-1], drawn.clamp(0, 1))
