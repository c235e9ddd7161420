from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import DataError
from mfm_core.explanation import METHODS, class_shift
from mfm_core.question import Question
from mfm_core.sweep import describe, difference_map, percent, summarise_difference, title_of
from tests.mfm_core.blob_world import blob_world
from tests.mfm_core.view_world import view_world


@pytest.fixture
def sweep():
    world = blob_world()
    return class_shift(world.model, world.atlas, world.image(world.first(0)), "left blob")


def test_the_difference_is_signed_and_zero_at_zero(sweep):
    assert np.abs(difference_map(sweep, 0.0)).max() == 0
    up, down = difference_map(sweep, 2.0), difference_map(sweep, -2.0)
    assert up[16, 8] > 0.1 > -0.1 > down[16, 8]


def test_an_alpha_without_a_frame_is_refused(sweep):
    with pytest.raises(DataError, match="choose one of"):
        difference_map(sweep, 0.3)


def test_the_map_is_made_at_the_flip_and_otherwise_at_the_end(sweep):
    assert sweep.shown_alpha == sweep.score.flip_alpha
    says_never = np.tile([1.0, 0.0, 0.0], (11, 1))
    stuck = replace(sweep, probabilities_reencoded=says_never)
    assert stuck.score.flip_alpha is None and stuck.shown_alpha == 2.0
    lost = replace(stuck, target="clear")
    assert lost.shown_alpha == -2.0


def test_the_summary_finds_the_place(sweep):
    change = summarise_difference(sweep)
    assert change.place == "middle left" and change.peak > 0
    assert change.brighter_area > change.darker_area
    assert 0 < change.mean_absolute < change.peak


def test_the_words_name_answer_flip_and_place(sweep):
    text = " ".join(describe(sweep))
    assert "reads this image as clear" in text
    assert "read as left blob instead" in text and "middle left" in text
    assert title_of(sweep) == "What the model would have to see to say “left blob”"
    twice = replace(sweep, probabilities_direct=np.roll(sweep.probabilities_direct, 1, axis=1))
    assert "trust this explanation less" in " ".join(describe(twice))


@pytest.mark.parametrize(
    ("probability", "text"), [(0.0, "<1 %"), (0.996, ">99 %"), (0.5, "50 %"), (1.0, ">99 %")]
)
def test_percent_never_claims_certainty(probability, text):
    assert percent(probability) == text


def view_sweep(index: int, value: str):
    world = view_world()
    question = Question(attribute="view", value=value)
    return METHODS["class_shift"](world.model, world.atlas, world.image(index), question).sweep


def ap_image() -> int:
    return int(np.flatnonzero(view_world().images.attributes[:, 0] == 0)[0])


def test_the_words_of_an_attribute_speak_of_its_value_and_of_the_finding():
    sweep = view_sweep(ap_image(), "PA")
    text = " ".join(describe(sweep))
    assert title_of(sweep) == "What this image would look like with view “PA”"
    assert "lies with view AP" in text and "read as PA instead" in text
    stays = replace(sweep, readings=np.tile([0.8, 0.1, 0.1], (11, 1)))
    assert "finding stays clear at every step" in " ".join(describe(stays))
    turned = stays.readings.copy()
    turned[7:] = [0.1, 0.8, 0.1]
    text = " ".join(describe(replace(sweep, readings=turned)))
    assert "turns from clear to left blob at step +0.8: it answers to the view" in text
    away = view_sweep(ap_image(), "AP")
    assert title_of(away).endswith("stop looking like view “AP”")


def test_a_class_sweep_has_no_sentence_on_findings(sweep):
    assert "finding" not in " ".join(describe(sweep))


def test_frames_outside_the_training_are_named(sweep):
    inside = replace(sweep, supported=np.ones(11, dtype=bool))
    assert "utside" not in " ".join(describe(inside))
    ends = np.ones(11, dtype=bool)
    ends[[0, 10]] = False
    assert "(dashed): step −2.0, +2.0." in " ".join(describe(replace(sweep, supported=ends)))
    none = replace(sweep, supported=np.zeros(11, dtype=bool))
    assert "image itself lies outside" in " ".join(describe(none))
