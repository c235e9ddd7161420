"""What both ends derive from the agreed run."""

from __future__ import annotations

from mfm_core.config import ModelConfig, OntologyConfig
from strategies.config import AuditConfig, RunConfig, StatisticsConfig
from strategies.plan import MESSAGE_TYPES, Step, attention_stage, derive_seed, plan_of

ONTOLOGY = OntologyConfig(classes=("a", "b"))


def make_run(**changed: object) -> RunConfig:
    return RunConfig.model_validate({"name": "t", "rounds": 3, "ontology": ONTOLOGY, **changed})


def test_the_plan_has_every_phase_in_order() -> None:
    kinds = [step.kind for step in plan_of(make_run())]
    assert kinds == [
        "patch_moments", "train", "train", "train", "latent_sums", "heads", "evaluate", "atlas",
        "audit",
    ]  # fmt: skip
    assert plan_of(make_run())[1:4] == tuple(Step("train", number) for number in (1, 2, 3))
    assert all(kind in MESSAGE_TYPES for kind in kinds)


def test_what_is_switched_off_is_left_out() -> None:
    run = make_run(
        model=ModelConfig(linear_path=False),
        statistics=StatisticsConfig(refit_head=False),
        audit=AuditConfig(enabled=False),
    )
    kinds = {step.kind for step in plan_of(run)}
    assert not kinds & {"patch_moments", "heads", "mitigate", "audit"}


def test_class_sums_come_before_every_round_that_uses_pseudo_labels() -> None:
    run = make_run(learning={"pseudo_labels": {"from_round": 2}})
    assert plan_of(run)[1:6] == (
        Step("train", 1), Step("class_sums", 2), Step("train", 2), Step("class_sums", 3),
        Step("train", 3),
    )  # fmt: skip
    assert "class_sums" not in {step.kind for step in plan_of(make_run())}


def test_mitigation_comes_in_rounds_between_the_head_and_the_evaluation() -> None:
    ontology = {"classes": ("a", "b"), "attributes": {"view": ("AP", "PA")}}
    run = make_run(ontology=ontology, mitigation={"attribute": "view", "rounds": 2})
    tail = plan_of(run)[5:9]
    assert tail == (
        Step("heads"), Step("mitigate", 1), Step("mitigate", 2), Step("evaluate")
    )  # fmt: skip


def test_heads_that_no_site_trains_take_one_exchange() -> None:
    ontology = {"classes": ("a", "b"), "attributes": {"view": ("AP", "PA")}}
    settings = {"attribute": "view", "methods": ["leace", "lda"], "rounds": 9}
    asked = plan_of(make_run(ontology=ontology, mitigation=settings))
    assert [step for step in asked if step.kind == "mitigate"] == [Step("mitigate", 1)]


def test_attention_stages() -> None:
    learning = {"objective": {"attention": {"rounds": 2}}}
    run = make_run(learning=learning)
    assert [attention_stage(run, number) for number in (1, 2, 3)] == [1, 1, 2]
    assert [attention_stage(make_run(), number) for number in (1, 3)] == [0, 0]


def test_seeds_differ_by_run_site_purpose_and_round() -> None:
    run, other = make_run(seed=1), make_run(seed=2)
    seeds = {
        derive_seed(run, "north", "train", 1),
        derive_seed(run, "north", "train", 2),
        derive_seed(run, "south", "train", 1),
        derive_seed(run, "north", "bootstrap", 1),
        derive_seed(other, "north", "train", 1),
    }
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(run, "north", "train", 1) == derive_seed(run, "north", "train", 1)
