"""The stand-in of a dry run sends what the real server would send to this one site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.local_coordinator import LocalCoordinator
from mfm_core.errors import DataError
from mfm_core.finetuning import update_schema
from mfm_core.patches import patch_moments
from mfm_core.sums import Sum
from server.phases import first_state, phases_of
from server.weights import new_model, next_weights
from strategies.answers import answer_of, request_has_model, request_schema
from strategies.collector import Pooled
from strategies.config import RunConfig
from strategies.plan import KINDS, Kind
from strategies.wire import Payload, model_size
from tests.server.hospitals import RUN, lay_out, site_config


def latent(seed: int = 0, patients: int = 40) -> Sum:
    from mfm_core.latent_sums import latent_sum
    from strategies.answers import latent_size, with_suppressed

    generator = np.random.default_rng(seed)
    labels = np.arange(patients) % 2
    attributes = (np.arange(patients) // 2 % 2)[:, None]
    mu = generator.normal(size=(patients, latent_size(RUN))) + labels[:, None]
    people = np.arange(patients)
    return with_suppressed(latent_sum(mu, labels, attributes, people, RUN.ontology), 0)


def candidates(heads: int = 9) -> Sum:
    cross_entropy = np.ones((heads, 17))
    cross_entropy[3, 5] = 0.5
    return Sum({"cross_entropy": cross_entropy, "correct": np.ones(heads), "images": np.ones(1)})


def test_each_message_equals_that_of_the_real_phases_with_one_site(tmp_path: Path) -> None:
    """The same answers are given to both; every request has to be the same bits."""
    from client.site import open_site
    from mfm_core.mitigation import empty_head_round_sum
    from strategies.answers import latent_size, trained_methods

    place = lay_out(tmp_path / "site", ("north",))
    assert site_config("north").name == "north"
    images = open_site(place / "sites" / "0.yaml").images
    moments = patch_moments(images, images.select("train"), RUN.model)
    update = np.random.default_rng(1).normal(size=first_state(RUN).weights.shape).astype(np.float32)
    change = empty_head_round_sum(trained_methods(RUN), 2, latent_size(RUN))
    change = Sum({name: array + 0.01 for name, array in change.arrays.items()})
    replies: dict[Kind, Payload] = {
        "patch_moments": Payload(total=moments),
        "train": Payload(update * 1e-3),
        "latent_sums": Payload(total=latent()),
        "heads": Payload(total=candidates()),
        "mitigate": Payload(total=change),
    }
    mine, state = LocalCoordinator(RUN), first_state(RUN)
    for phase in phases_of(RUN):
        if phase.step.round > 1:
            continue
        kind = phase.step.kind
        theirs, ours = phase.request(state), mine.message(kind)
        for one, two in ((ours.model, theirs.model), (flat(ours), flat(theirs))):
            assert (one is None) == (two is None), kind
            assert one is None or two is None or np.allclose(one, two, rtol=1e-6, atol=1e-7), kind
        reply = replies.get(kind, Payload())
        mine.take(kind, reply)
        state = finished(phase, state, reply)


def flat(payload: Payload) -> np.ndarray | None:
    return payload.total.flatten() if payload.total is not None and payload.total.arrays else None


def finished(phase: object, state: object, reply: Payload) -> object:
    """Return the server's next state after one site's answer, without its figures."""
    import dataclasses

    kind = phase.step.kind  # type: ignore[attr-defined]
    if kind == "train":
        assert reply.model is not None
        return dataclasses.replace(state, weights=state.weights + reply.model)  # type: ignore[type-var, attr-defined]
    if kind == "latent_sums":
        sums = {**state.sums, "latent_sums": reply.total}  # type: ignore[attr-defined]
        return dataclasses.replace(state, sums=sums)  # type: ignore[type-var]
    if reply.total is None:
        return state
    pooled = Pooled(1, None, reply.total, {})
    return phase.finish(state, pooled)[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["heads", "mitigate", "atlas"])
def test_what_needs_an_atlas_is_refused_without_latent_sums(kind: Kind) -> None:
    with pytest.raises(DataError, match="latent sums"):
        LocalCoordinator(RUN).message(kind)


def test_too_few_patients_make_no_atlas_and_say_so() -> None:
    mine = LocalCoordinator(RUN)
    mine.take("latent_sums", Payload(total=latent(patients=2)))
    with pytest.raises(DataError, match="with other sites"):
        mine.message("heads")


def test_requests_have_the_schema_that_the_site_expects() -> None:
    mine = LocalCoordinator(RUN)
    mine.take("latent_sums", Payload(total=latent()))
    for kind in KINDS:
        payload = mine.message(kind)
        expected = request_schema(RUN, kind)
        assert (payload.total.schema if payload.total is not None else None) == expected
        assert (payload.model is not None) == request_has_model(kind)


def test_class_sums_go_back_with_the_training_that_uses_them() -> None:
    content = RUN.model_dump(mode="json")
    content["learning"]["pseudo_labels"] = {"from_round": 1}
    run = RunConfig.model_validate(content)
    schema = answer_of(run, "class_sums").total
    assert schema is not None
    mine = LocalCoordinator(run)
    mine.take("class_sums", Payload(total=Sum({name: np.zeros(size) for name, size in schema})))
    sent = mine.message("train")
    assert sent.total is not None and sent.total.schema == request_schema(run, "train", 1)


def test_a_low_rank_change_is_merged_as_the_server_merges_it() -> None:
    content = RUN.model_dump(mode="json")
    content["learning"] |= {"trainable": "lora", "lora": {"rank": 2}}
    run = RunConfig.model_validate(content)
    state = first_state(run)
    update = np.random.default_rng(2).normal(size=len(update_of(run))).astype(np.float32) * 1e-2
    mine = LocalCoordinator(run)
    mine.take("train", Payload(update))
    assert (mine.weights == next_weights(run, state, update.astype(np.float64))[1]).all()


def update_of(run: RunConfig) -> np.ndarray:
    return np.zeros(model_size(update_schema(new_model(run), run.learning)))
