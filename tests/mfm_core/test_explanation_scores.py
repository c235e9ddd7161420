from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch

from mfm_core import explanation_scores
from mfm_core.checkpoint import encoder_hash
from mfm_core.errors import DataError
from mfm_core.explanation import METHODS, class_shift
from mfm_core.explanation_scores import Case, bench_of, score_case, sweep_seconds
from mfm_core.metric_table import METHOD_NAMES, OWN_METHOD, metrics_of
from mfm_core.question import Explanation
from tests.mfm_core.blob_world import CLASSES, SIDE, blob_world


def case_of(label, target=None, mask=True):
    world = blob_world()
    index = world.first(label)
    known = world.masks[index] if mask else None
    target = CLASSES[label] if target is None else target
    return Case(world.image(index), target, CLASSES[label] == target, known, 5)


def scored(case):
    world = blob_world()
    return score_case(bench_of(world.model, world.atlas, 0), case)


def only(monkeypatch, methods):
    monkeypatch.setattr(explanation_scores, "METHODS", MappingProxyType(methods))


def drawing(saliency):
    def method(model, atlas, image, question):
        sweep = METHODS[OWN_METHOD](model, atlas, image, question).sweep
        return Explanation("drawn", question, image, np.asarray(saliency, dtype=np.float32), sweep)

    return method


def test_the_methods_are_those_of_the_table():
    assert tuple(METHODS) == METHOD_NAMES


def test_every_score_has_a_histogram_and_a_masked_image_fills_all_of_them():
    world = blob_world()
    found = scored(case_of(1))
    names = {metric.name for metric in metrics_of(world.ontology)}
    # A Grad-CAM of a random head may be zero everywhere, which is like nothing.
    assert set(found) | {"sanity_head.grad_cam"} == names
    assert all(np.isfinite(value) for value in found.values())


def test_curve_scores_are_those_of_the_sweep():
    world = blob_world()
    sweep = class_shift(world.model, world.atlas, world.image(world.first(0)), "left blob")
    found = scored(case_of(0, "left blob"))
    assert found["spearman"] == sweep.score.spearman
    assert found["flip_alpha"] == abs(sweep.score.flip_alpha) > 0
    assert (found["cycle"], found["ssim"]) == (sweep.cycle, sweep.ssim)


def test_what_appears_has_no_place_and_no_map_scores():
    asked = scored(case_of(1, "right blob"))
    assert {"spearman", "flip_rate", "cycle", "ssim"} <= set(asked)
    families = {name.partition(".")[0] for name in asked}
    assert not families & {"iou", "pointing", "deletion", "sanity_head", "ssim_outside"}


def test_without_a_mask_no_gradients_are_taken_and_no_place_is_scored():
    found = scored(case_of(1, mask=False))
    assert {name for name in METHOD_NAMES if f"sanity_head.{name}" in found} == {
        "class_shift", "counterfactual",
    }  # fmt: skip
    assert not any(name.startswith(("iou", "pointing", "ssim_outside")) for name in found)
    assert "ssim_whole" in found


def test_the_mask_itself_as_a_map_is_perfect_and_its_gain_is_the_others_loss(monkeypatch):
    case = case_of(1)
    away = np.roll(case.mask, SIDE // 2, axis=1)
    right, wrong = drawing(case.mask), drawing(away)
    only(monkeypatch, {"class_shift": right, "located_change": right, "grad_cam": wrong})
    found = scored(case)
    assert (found["iou.class_shift"], found["pointing.class_shift"]) == (1, 1)
    assert (found["iou_gain.class_shift"], found["pointing_gain.class_shift"]) == (0, 0)
    assert (found["iou.grad_cam"], found["pointing.grad_cam"]) == (0, 0)
    assert (found["iou_gain.grad_cam"], found["pointing_gain.grad_cam"]) == (1, 1)
    assert found["deletion.class_shift"] > 0.1 > found["deletion.grad_cam"]
    assert found["insertion.class_shift"] > 0.1 > found["insertion.grad_cam"]


def test_a_mask_that_lies_elsewhere_is_missed_and_changes_what_is_outside():
    case = case_of(1)
    away = replace(case, mask=np.roll(case.mask, SIDE // 2, axis=1))
    there, missed = scored(case), scored(away)
    assert there["iou.class_shift"] > 0.3 > missed["iou.class_shift"]
    assert there["ssim_outside"] > missed["ssim_outside"] + 0.03


def test_with_a_random_head_what_reads_the_head_changes_and_what_does_not_stays():
    found = scored(case_of(1))
    assert found["sanity_head.counterfactual"] < 0.5
    assert found["sanity_head.class_shift"] > found["sanity_head.counterfactual"] + 0.3


def test_a_map_that_ignores_the_head_is_caught(monkeypatch):
    case = case_of(1)
    only(monkeypatch, {**METHODS, "counterfactual": drawing(case.mask)})
    assert scored(case)["sanity_head.counterfactual"] == pytest.approx(1, abs=1e-5)


def test_the_axis_of_shuffled_labels_draws_something_else():
    assert max(scored(case_of(label))["sanity_labels"] for label in (1, 2)) < 0.3


def test_the_random_head_has_rows_of_the_true_lengths_and_the_model_gets_its_own_back():
    world = blob_world()
    before = world.model.head.weight.detach().numpy().copy()
    bench = bench_of(world.model, world.atlas, 3)
    lengths = np.linalg.norm(bench.random_head, axis=1)
    assert np.allclose(lengths, np.linalg.norm(before, axis=1), rtol=1e-5)
    assert not np.allclose(bench.random_head, before, atol=1e-3)
    identity = encoder_hash(world.model)
    score_case(bench, case_of(1))
    assert np.array_equal(world.model.head.weight.detach().numpy(), before)
    assert encoder_hash(world.model) == identity


def test_the_shuffled_axis_is_as_long_as_the_true_one():
    world = blob_world()
    bench = bench_of(world.model, world.atlas, 0)
    inverse = np.linalg.inv(world.atlas.covariance)
    for name in CLASSES:
        true, other = world.atlas.class_axis(name), bench.shuffled[name].class_axis(name)
        assert other @ inverse @ other == pytest.approx(true @ inverse @ true, rel=1e-4)


def test_a_method_without_an_answer_is_left_out(monkeypatch):
    def refuses(*_):
        raise DataError("explanation", ["no answer"])

    only(monkeypatch, {**METHODS, "counterfactual": refuses})
    found = scored(case_of(1))
    assert "iou.counterfactual" not in found and "iou.grad_cam" in found


def test_a_broken_model_is_refused():
    broken = blob_world.__wrapped__()
    bench = bench_of(broken.model, broken.atlas, 0)
    with torch.no_grad():
        broken.model.to_latent.bias.fill_(float("nan"))
    case = case_of(1)
    object.__setattr__(bench.atlas, "encoder_hash", encoder_hash(broken.model))
    with pytest.raises(DataError, match="finite"):
        score_case(bench, case)


def test_the_time_of_a_sweep_is_the_median_by_the_clock():
    world = blob_world()
    ticks = iter([0.0, 1.0, 2.0, 5.0, 6.0, 8.0])
    image = world.image(0)
    assert sweep_seconds(world.model, world.atlas, image, 3, lambda: next(ticks)) == 2.0


def test_an_atlas_with_numbers_that_are_not_finite_is_refused():
    world = blob_world()
    broken = replace(world.atlas, covariance=world.atlas.covariance * np.nan)
    with pytest.raises(DataError, match="not finite"):
        bench_of(world.model, broken, 0)
