"""Each phase changes exactly what it should."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.checkpoint import weight_schema
from mfm_core.errors import DataError
from mfm_core.evaluation import metric_sum
from mfm_core.head import SHRINKAGES
from mfm_core.latent_sums import latent_sum
from mfm_core.sums import Sum
from server.phases import (
    Audit,
    Heads,
    LatentSums,
    Mitigation,
    Training,
    first_state,
    phases_of,
)
from server.weights import attention_slice, head_of, model_with, new_model
from strategies.answers import answer_of, latent_size, training_sum, with_suppressed
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import Step
from strategies.strategy import RunState
from tests.server.hospitals import RUN

LATENT = latent_size(RUN)


@pytest.fixture
def released() -> RunState:
    """Return a state with latent sums of two classes that are far apart."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    mu = generator.normal(size=(100, LATENT))
    mu[labels == 1, 0] += 6.0
    views = np.zeros((100, 1), dtype=np.int64)
    total = with_suppressed(latent_sum(mu, labels, views, np.arange(100), RUN.ontology), 0)
    phase = LatentSums(RUN, Step("latent_sums"))
    noted = {"north": phase.note(total, 100)}
    state, facts = phase.finish(first_state(RUN), Pooled(100, None, total, noted))
    assert facts["patients_per_class"] == {"left": 50, "right": 50}
    return state


def test_the_first_state_is_the_seeded_model() -> None:
    one, two = first_state(RUN), first_state(RUN)
    assert one.weights.tobytes() == two.weights.tobytes()
    other = first_state(RUN.model_copy(update={"seed": 6}))
    assert one.weights.tobytes() != other.weights.tobytes()


def test_hello_comes_first_and_every_request_matches_its_answer() -> None:
    phases = phases_of(RUN)
    assert phases[0].step == Step("hello")
    state = first_state(RUN)
    for phase in phases:
        assert phase.answer(state) == answer_of(RUN, phase.step.kind)


def test_training_is_fedavg_and_reports_validation_before_the_round() -> None:
    state = first_state(RUN)
    empty = metric_sum(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0), np.zeros(0, int), 0, 0)
    total = training_sum(empty, {"loss": 2.0}, 10)
    update = np.full(len(state.weights), 0.5)
    own = {"north": {"loss": {"loss": 2.0}, "val": {}}}
    after, facts = Training(RUN, Step("train", 1)).finish(state, Pooled(10, update, total, own))
    expected, map_ = state.weights + np.float32(0.5), attention_slice(RUN)
    expected[map_] = state.weights[map_]
    assert np.array_equal(after.weights, expected)
    assert after.server.rounds == 1 and facts["loss"] == {"loss": 2.0}
    assert facts["val"] == {"macro_auc": None, "accuracy": None, "ssim": None}


def test_the_best_candidate_becomes_the_head_and_nothing_else_changes(released: RunState) -> None:
    phase = Heads(RUN, Step("heads"))
    candidates = phase.candidates(released)
    assert len(candidates) == 1 + len(SHRINKAGES)
    answer = answer_of(RUN, "heads").total
    assert answer is not None
    shapes = dict(answer)
    losses = np.full(shapes["cross_entropy"], 50.0)
    losses[3] = 5.0
    correct = np.zeros(len(candidates))
    total = Sum({"cross_entropy": losses, "correct": correct, "images": np.array([10.0])})
    after, facts = phase.finish(released, Pooled(10, None, total, {}))
    assert facts["chosen_head"] == 3
    changed, before = model_with(RUN, after.weights), model_with(RUN, released.weights)
    weight = changed.head.weight.detach().numpy()
    direction = candidates[3].weight / np.linalg.norm(candidates[3].weight)
    assert np.allclose(weight / np.linalg.norm(weight), direction, atol=1e-6)
    names = [name for name, _ in weight_schema(new_model(RUN))]
    for name, one, two in zip(names, changed.parameters(), before.parameters(), strict=True):
        assert name.startswith("head.") or bool((one == two).all())


def test_without_validation_images_the_trained_head_stays(released: RunState) -> None:
    schema = answer_of(RUN, "heads").total
    assert schema is not None
    nothing = Sum({name: np.zeros(shape) for name, shape in schema})
    after, facts = Heads(RUN, Step("heads")).finish(released, Pooled(0, None, nothing, {}))
    assert facts["chosen_head"] == 0
    assert np.array_equal(after.weights, released.weights)


@pytest.mark.parametrize("counts", [(0.0, 0.0), (1.0, 1.0), (-3.0, 90.0)])
def test_too_few_patients_end_the_phase_with_what_to_do(counts: tuple[float, float]) -> None:
    schema = answer_of(RUN, "latent_sums").total
    assert schema is not None
    arrays = {name: np.zeros(shape) for name, shape in schema}
    total = Sum({**arrays, "class.count": np.array(counts)})
    phase = LatentSums(RUN, Step("latent_sums"))
    with pytest.raises(DataError, match="lower min_cell_count"):
        phase.finish(first_state(RUN), Pooled(2, None, total, {}))


def test_a_site_that_joins_only_the_audit_does_not_end_the_run(released: RunState) -> None:
    phase = Audit(RUN, Step("audit"))
    schema = answer_of(RUN, "audit").total
    assert schema is not None
    nobody = Sum({name: np.zeros(shape) for name, shape in schema})
    noted = {"late": phase.note(nobody, 0)}
    state, _ = phase.finish(released, Pooled(0, None, nobody, noted))
    assert set(state.facts["audit"]["per_site"]) == {"late"}
    assert {row["attribute"] for row in state.facts["audit"]["biases"]} == {"view"}


def test_a_closed_form_head_is_used_after_the_one_exchange() -> None:
    settings = {"attribute": "view", "methods": ["lda"], "use": "lda", "rounds": 9}
    run = RunConfig.model_validate({**RUN.model_dump(), "mitigation": settings})
    rng = np.random.default_rng(0)
    labels, views = np.repeat([0, 1], 50), rng.integers(0, 2, (100, 1))
    mu = rng.normal(size=(100, LATENT)) + views
    total = with_suppressed(latent_sum(mu, labels, views, np.arange(100), run.ontology), 0)
    start = first_state(run)
    assert sum(phase.step.kind == "mitigate" for phase in phases_of(run)) == 1
    phase = Mitigation(run, Step("mitigate", 1))
    begun = RunState(0, start.weights, start.server, sums={"latent_sums": total})
    answer = Pooled(100, None, Sum({"images": np.array([100.0])}), {})
    state, _ = phase.finish(begun, answer)
    before, after = (head_of(run, weights).weight for weights in (start.weights, state.weights))
    assert not before.any() and after.any()
    assert np.array_equal(after, phase.heads(state)["lda"].weight)


def test_class_sums_without_a_labelled_patient_end_the_run_there() -> None:
    """Not after all rounds, for want of an atlas."""
    content = RUN.model_dump()
    content["learning"]["pseudo_labels"]["from_round"] = 1
    run = RunConfig.model_validate(content)
    (phase, *_) = (p for p in phases_of(run) if p.step.kind == "class_sums")
    zeros = {name: np.zeros(shape) for name, shape in answer_of(run, "class_sums").total or ()}
    with pytest.raises(DataError, match="found 0 training patients"):
        phase.finish(first_state(run), Pooled(20, None, Sum(zeros), {}))
    some = Sum({**zeros, "class.count": np.array([2.0, 1.0])})
    state, _ = phase.finish(first_state(run), Pooled(20, None, some, {}))
    without, _ = phase.finish(state, Pooled(20, None, Sum(zeros), {}))
    assert without.sums["class_sums"]["class.count"].tolist() == [0.0, 0.0]
