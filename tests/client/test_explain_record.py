import json

import numpy as np
import pytest

from client.explain_record import main_of, record_of, rows_of, slug_of
from mfm_core.explanation import METHODS
from mfm_core.question import Question, ask
from mfm_core.report import finite
from tests.mfm_core.view_world import view_world

BLOB = Question("left blob")


def record(question: Question, *methods: str, index: int = 0):
    world = view_world()
    image = world.image(index)
    made = [METHODS[name](world.model, world.atlas, image, question) for name in methods]
    return finite(record_of(made, ask(world.model, world.atlas, image, question))), made


@pytest.mark.parametrize(
    ("question", "method", "slug"),
    [
        (BLOB, "class_shift", "left-blob"),
        (Question("Left  blob!", "b/c"), "class_shift", "left-blob-versus-b-c"),
        (BLOB, "grad_cam", "left-blob-grad_cam"),
        (Question(attribute="view", value="PA"), "all", "view-pa-all"),
        (Question("../../etc"), "class_shift", "etc"),
        (Question("結節"), "class_shift", "結節"),
        (Question("?"), "class_shift", "x"),
    ],
)
def test_a_question_makes_a_part_of_a_file_name(question, method, slug):
    assert slug_of(question, method) == slug


def test_a_record_is_plain_and_holds_the_models_own_reading():
    content, made = record(BLOB, "class_shift")
    assert json.loads(json.dumps(content)) == content
    direct = made[0].sweep.probabilities_direct[made[0].sweep.zero]
    assert list(content["probabilities"].values()) == pytest.approx(direct.tolist(), abs=1e-5)
    assert content["probability_reencoded"][content["alphas"].index(0.0)] == pytest.approx(
        made[0].sweep.probabilities_reencoded[made[0].sweep.zero, 1], abs=1e-6
    )


def test_a_method_without_frames_still_says_what_the_model_reads():
    content, _ = record(BLOB, "integrated_gradients")
    assert "alphas" not in content and content["read_as"] in content["probabilities"]
    assert "left blob" in content["question"]
    found = content["methods"]["integrated_gradients"]
    assert 0 < found["peak_row"] < 1 and "completeness_gap" in found["figures"]


def test_the_peak_is_given_in_parts_of_the_side():
    world = view_world()
    index = int(np.flatnonzero(world.images.labels == 1)[0])
    content, made = record(BLOB, "counterfactual", index=index)
    saliency = made[0].saliency
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    found = content["methods"]["counterfactual"]
    assert (int(found["peak_row"] * 32), int(found["peak_column"] * 32)) == (row, column)


def test_the_main_explanation_is_the_first_that_draws():
    _, made = record(BLOB, "grad_cam", "counterfactual", "class_shift")
    assert main_of(made).method == "counterfactual"
    assert main_of(made[:1]).method == "grad_cam"


def test_rows_are_words():
    for question in (BLOB, Question(attribute="view", value="PA")):
        content, _ = record(question, "class_shift", "counterfactual")
        rows = dict(rows_of(content))
        assert all(isinstance(value, str) and value for value in rows.values())
        assert any("mahalanobis" in value for value in rows.values())
        assert "_" not in " ".join(rows)
    assert "Where the image lies, as the atlas tells it" in rows
