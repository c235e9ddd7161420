from dataclasses import replace

import numpy as np
import pytest
import torch

from mfm_core.checkpoint import encoder_hash
from mfm_core.errors import CheckpointError, DataError
from mfm_core.inference import infer
from mfm_core.question import Question, ask, reading
from tests.mfm_core.view_world import view_world


def problems_of(world, question, atlas=None, image=None):
    with pytest.raises(DataError) as caught:
        ask(
            world.model,
            atlas or world.atlas,
            world.image(0) if image is None else image,
            question,
        )
    return caught.value.problems


def with_views(atlas, counts):
    cells = {**atlas.attribute_counts, "view": np.asarray(counts, dtype=float)}
    return replace(atlas, attribute_counts=cells)


def test_a_class_is_judged_by_the_models_head_along_the_atlas_axis():
    world = view_world()
    asked = ask(world.model, world.atlas, world.image(0), Question("left blob", "clear"))
    with torch.no_grad():
        logits = world.model.classify(asked.latent)
    assert torch.allclose(asked.sides.judge(asked.latent), logits, atol=1e-5)
    assert np.array_equal(asked.sides.axis, world.atlas.class_axis("left blob", "clear"))
    assert asked.sides.score(logits).item() == pytest.approx((logits[0, 1] - logits[0, 0]).item())


def test_the_score_against_all_others_is_the_logit_of_the_probability():
    world = view_world()
    asked = ask(world.model, world.atlas, world.image(0), Question("left blob"))
    logits = torch.tensor([[0.3, 1.2, -4.0], [800.0, -800.0, 3.0]], dtype=torch.float64)
    chance = logits.softmax(dim=1)[0, 1]
    score = asked.sides.score(logits)
    assert score[0].item() == pytest.approx(torch.log(chance / (1 - chance)).item())
    assert torch.isfinite(score).all()


@pytest.mark.parametrize(("value", "versus"), [("PA", None), ("PA", "AP"), ("AP", None)])
def test_an_attribute_of_two_values_moves_along_the_class_conditional_axis(value, versus):
    world = view_world()
    question = Question(attribute="view", value=value, versus=versus)
    asked = ask(world.model, world.atlas, world.image(0), question)
    other = "AP" if value == "PA" else "PA"
    assert asked.sides.names == (other, value)
    assert np.allclose(asked.sides.axis, world.atlas.attribute_axis("view", value, other))


def test_a_value_among_many_is_compared_with_all_others():
    world = view_world()
    image = world.image(0)
    asked = ask(world.model, world.atlas, image, Question(attribute="site", value="south"))
    count, mean = world.atlas.attribute_counts["site"], world.atlas.attribute_means["site"]
    rest = (count[:, 0, None] * mean[:, 0] + count[:, 2, None] * mean[:, 2]) / (
        count[:, 0] + count[:, 2]
    )[:, None]
    weight = count[:, 1] * (count[:, 0] + count[:, 2]) / count.sum(axis=1)
    assert asked.sides.names == ("another site", "south")
    assert np.allclose(asked.sides.axis, weight @ (mean[:, 1] - rest) / weight.sum())


def test_the_atlas_tells_the_views_of_unseen_images_apart():
    world = view_world()
    rows = world.images.select("test")
    mu = torch.from_numpy(infer(world.model, world.images, rows).mu)
    sides = ask(
        world.model, world.atlas, world.image(0), Question(attribute="view", value="PA")
    ).sides
    said = sides.judge(mu).argmax(dim=1).numpy()
    assert (said == world.images.attributes[rows, 0]).mean() > 0.97


def test_an_attribute_names_no_class_and_the_other_way_round():
    world = view_world()
    for question in (Question(), Question("clear", attribute="view", value="PA")):
        assert "either a class or an attribute" in problems_of(world, question)[0]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(attribute="sex", value="F"), ("'sex'", "view, site")),
        (Question(attribute="view", value="LL"), ("'LL'", "AP, PA")),
        (Question(attribute="view"), ("None", "AP, PA")),
        (Question(attribute="view", value="PA", versus="LL"), ("'LL'", "AP, PA")),
        (Question(attribute="view", value="PA", versus="PA"), ("two different values",)),
        (Question("clear", probability=0.2), ("0.2", "0.5", "0.999")),
        (Question("clear", probability=float("nan")), ("nan", "0.999")),
    ],
)
def test_wrong_questions_are_refused_in_words(question, words):
    (problem,) = problems_of(view_world(), question)
    assert all(word in problem for word in words)


def test_one_sided_attributes_are_refused_in_words():
    world, pa = view_world(), Question(attribute="view", value="PA")
    only_ap = with_views(world.atlas, [[9, 0], [9, 0], [9, 0]])
    assert "no patient of the atlas has view 'PA' (only AP)" in problems_of(world, pa, only_ap)[0]
    ap = Question(attribute="view", value="AP")
    assert "every patient of the atlas has view 'AP'" in problems_of(world, ap, only_ap)[0]
    apart = with_views(world.atlas, [[9, 0], [0, 9], [0, 9]])
    assert "cannot be told from the classes" in problems_of(world, pa, apart)[0]
    nobody = with_views(world.atlas, np.zeros((3, 2)))
    assert "(only none)" in problems_of(world, pa, nobody)[0]


def test_all_problems_are_named_at_once():
    world = view_world()
    question = Question("tumour", "cyst", alphas=(9.0,), probability=2.0)
    found = problems_of(world, question, image=np.zeros((3, 16, 16), dtype=np.float32))
    assert len(found) == 5


def test_a_head_with_other_classes_is_refused():
    world = view_world()
    two = world.ontology.model_copy(update={"classes": ("clear", "left blob")})
    fewer = replace(
        world.atlas, ontology=two, counts=world.atlas.counts[:2], means=world.atlas.means[:2]
    )
    assert "same run" in problems_of(world, Question("clear"), fewer)[0]


def test_another_encoder_is_refused():
    world = view_world()
    other = replace(world.atlas, encoder_hash="0" * 64)
    with pytest.raises(CheckpointError, match="same run"):
        ask(world.model, other, world.image(0), Question(attribute="view", value="PA"))


def test_a_latent_that_is_not_finite_is_refused():
    broken = view_world.__wrapped__()
    with torch.no_grad():
        broken.model.to_latent.bias.fill_(float("nan"))
    atlas = replace(broken.atlas, encoder_hash=encoder_hash(broken.model))
    assert "undamaged model" in problems_of(broken, Question("clear"), atlas)[0]


def test_the_mode_comes_back_even_after_an_error():
    world = view_world()
    world.model.train()
    with pytest.raises(KeyError), reading(world.model):
        assert not world.model.training
        raise KeyError
    assert world.model.training
    world.model.eval()
