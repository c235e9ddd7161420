import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from mfm_core.attribution import grad_cam, integrated_gradients, mean_image
from mfm_core.question import Question, ask
from tests.mfm_core.blob_world import SIDE
from tests.mfm_core.view_world import lively_world, view_world

QUESTIONS = [
    Question("left blob"),
    Question("left blob", "right blob"),
    Question(attribute="view", value="PA"),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_grad_cam_is_the_papers_formula_enlarged_to_the_image(question):
    world = lively_world()
    image = world.image(world.first(0))
    asked = ask(world.model, world.atlas, image, question)
    kept = []
    hook = world.model.encoder.stages[-1].register_forward_hook(
        lambda module, given, output: kept.append(output)
    )
    latent, _ = world.model.encode(asked.picture)
    hook.remove()
    (slopes,) = torch.autograd.grad(asked.sides.score(asked.sides.judge(latent)).sum(), kept[0])
    weighted = (slopes.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1, keepdim=True)
    by_hand = torch.nn.functional.interpolate(weighted.relu(), size=(SIDE, SIDE), mode="bilinear")
    found = grad_cam(world.model, world.atlas, image, question).saliency
    assert found.shape == (SIDE, SIDE) and found.max() > 0
    assert np.allclose(found, by_hand[0, 0].detach().numpy(), rtol=1e-4, atol=1e-7)


def test_grad_cam_sees_nothing_of_the_linear_path():
    world = view_world()
    found = grad_cam(world.model, world.atlas, world.image(0), Question("left blob"))
    assert found.sweep is None and not found.saliency.any()


@pytest.mark.parametrize("question", QUESTIONS)
def test_integrated_gradients_are_complete(question):
    world = lively_world()
    for index in (world.first(0), world.first(1)):
        image = world.image(index)
        found = integrated_gradients(world.model, world.atlas, image, question)
        asked = ask(world.model, world.atlas, image, question)
        with torch.no_grad():
            score = asked.sides.score(asked.sides.judge(asked.latent)).item()
        gained = found.figures["log_odds"] - found.figures["mean_image_log_odds"]
        assert found.figures["log_odds"] == pytest.approx(score, rel=1e-4, abs=1e-4)
        assert abs(gained) > 0.05
        assert found.figures["completeness_gap"] <= 0.02 * max(abs(gained), 1.0)


def test_integrated_gradients_of_a_linear_answer_are_weight_times_difference():
    """The quiet model is linear up to the log odds; against one class these are linear too."""
    world = view_world()
    image = world.image(world.first(1))
    question = Question("left blob", "clear")
    asked = ask(world.model, world.atlas, image, question)
    pixels = asked.picture.clone().requires_grad_()
    latent, _ = world.model.encode(pixels)
    (slopes,) = torch.autograd.grad(asked.sides.score(asked.sides.judge(latent)).sum(), pixels)
    by_hand = slopes * (asked.picture - mean_image(world.model, world.atlas))
    found = integrated_gradients(world.model, world.atlas, image, question)
    assert np.allclose(found.saliency, by_hand[0, 0].abs().numpy(), rtol=1e-3, atol=1e-6)
    assert found.saliency[16, 8] > 5 * np.median(found.saliency)


def test_the_mean_image_itself_has_nothing_to_attribute():
    world = lively_world()
    image = mean_image(world.model, world.atlas)[0].numpy()
    found = integrated_gradients(world.model, world.atlas, image, Question("clear"))
    assert not found.saliency.any()


def test_captum_is_imported_only_where_it_is_used():
    """It takes a second to load, which a command that draws no baseline should not wait for."""
    source = Path(inspect.getsourcefile(grad_cam)).read_text(encoding="utf-8")
    nodes = ast.parse(source).body
    first = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("captum" in ast.unparse(node) for node in first)
    assert source.count("from captum") == 2
