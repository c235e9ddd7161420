"""SCAFFOLD in whole runs: no correction without a difference, exact sums, resume, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import local_round
from client.own_parts import recall
from mfm_core.config import canonical_hash
from mfm_core.errors import UpdateRejected
from mfm_core.sums import Sum
from server.app import final_hash, run_federation
from strategies.answers import answer_of, request_schema
from strategies.config import RunConfig
from strategies.scaffold import (
    CONTROL,
    check_control,
    control_schema,
    control_told,
    mean_control,
    with_control,
)
from tests.server.hospitals import (
    RUN,
    Killed,
    consortium,
    dying_after,
    lay_out,
    make_grid,
    write_hospital,
)
from tests.strategies.test_secure_rounds import SHORT, federate

SITES = ("north", "south")


def scaffold_run(**changes: Any) -> RunConfig:
    content = RUN.model_dump(mode="json")
    content["mitigation"] = {}
    content["rounds"] = 3
    content["aggregation"] = {"kind": "scaffold"}
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return RunConfig.model_validate(content)


def fedavg(run: RunConfig) -> RunConfig:
    return run.model_copy(update={"aggregation": RUN.aggregation})


def own_control(folder: Path, run: RunConfig, site: str, before: int) -> np.ndarray:
    found = recall(folder / "state" / site, canonical_hash(run), "control", before)
    assert found is not None
    return found


def test_like_sites_train_as_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same images and same draws at both: c is c_i to the bit, so the run is FedAvg's."""
    monkeypatch.setattr(local_round, "derive_seed", lambda run, site, what, number: number)
    weights = {}
    for name, run in (("corrected", scaffold_run()), ("plain", fedavg(scaffold_run()))):
        folder = lay_out(tmp_path / name, run=run)
        for file in (folder / "images" / "south").iterdir():
            file.unlink()
        (folder / "images" / "south").rmdir()
        write_hospital(folder / "images" / "south", seed=0)
        weights[name] = run_federation(make_grid(folder), consortium(folder, "out"), False).weights
    assert np.array_equal(weights["corrected"], weights["plain"])


def test_unlike_sites_are_corrected_and_the_mean_of_their_own_is_the_servers(
    tmp_path: Path,
) -> None:
    run = scaffold_run()
    folder = lay_out(tmp_path / "run", run=run)
    state = run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    mine = [own_control(folder, run, name, 99) for name in SITES]
    assert np.abs(mine[0] - mine[1]).max() > 1e-4
    total = sum(one.astype(np.float64) for one in mine)  # both have as many images
    np.testing.assert_allclose(total, 2 * state.sums[CONTROL][CONTROL], rtol=0, atol=2**-31)
    plain = lay_out(tmp_path / "plain", run=fedavg(run))
    other = run_federation(make_grid(plain), consortium(plain, "out"), resume=False)
    assert not np.array_equal(state.weights, other.weights)


def test_killed_and_resumed_is_the_unbroken_run(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, run=scaffold_run())
    unbroken = run_federation(make_grid(folder), consortium(folder, "unbroken"), resume=False)
    dying, settings = dying_after(9), consortium(folder, "killed")
    with pytest.raises(Killed):
        run_federation(make_grid(folder, wrap={0: dying, 1: dying}), settings, resume=False)
    state = run_federation(make_grid(folder), settings, resume=True)
    assert final_hash(state) == final_hash(unbroken)


def test_a_late_site_has_nothing_to_take_away(tmp_path: Path) -> None:
    run = scaffold_run()
    folder = lay_out(tmp_path, ("north",), run=run)
    site = local_round_site(folder)
    size = control_schema(run)[0][1]
    mean = Sum({CONTROL: np.full(size, 0.5)})
    control = local_round.control_of(site, 2, mean)
    assert control is not None and np.array_equal(site.correction(mean[CONTROL], 2), mean[CONTROL])
    site.keep_control(np.full(size, 0.125, dtype=np.float32), 2)
    assert (site.correction(mean[CONTROL], 3) == 0.375).all()
    assert (site.correction(mean[CONTROL], 2) == 0.5).all(), "a repeated round begins as it did"


def local_round_site(folder: Path) -> Any:
    from client.site import open_site

    return open_site(folder / "sites" / "0.yaml")


def test_every_other_run_sends_what_it_always_did() -> None:
    run = fedavg(scaffold_run())
    assert request_schema(run, "train", 1) is None
    assert all(name != CONTROL for name, _ in answer_of(run, "train").total or ())
    asked = request_schema(scaffold_run(), "train", 1)
    assert asked == control_schema(run) and set(asked) < set(
        answer_of(scaffold_run(), "train").total or ()
    )


def test_the_mean_is_by_images() -> None:
    found = [np.array([1.0, 0.0], np.float32), np.array([0.0, 4.0], np.float32)]
    sums = [with_control(Sum(), c, n) for c, n in zip(found, (30, 10), strict=True)]
    assert mean_control(sums[0].merge(sums[1]), 40)[CONTROL].tolist() == [0.75, 1.0]
    assert not control_told(scaffold_run(), None)[CONTROL].any()


@pytest.mark.parametrize("value", [1e9, np.nan])
def test_a_site_cannot_send_a_gradient_of_any_length(value: float) -> None:
    total = Sum({CONTROL: np.array([value, 0.0])})
    with pytest.raises(UpdateRejected, match="norm of at most"):
        check_control(total, 10, 1e4)
    check_control(Sum({CONTROL: np.array([9e4, 0.0])}), 10, 1e4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning": {"trainable": "lora"}}, "learning.trainable must be all"),
        ({"learning": {"trainable": "head"}}, "learning.trainable must be all"),
        ({"learning": {"pseudo_labels": {"from_round": 2}}}, "pseudo_labels"),
        ({"aggregation": {"personal": ["head"]}}, "aggregation.personal must be empty"),
        ({"aggregation": {"combine": "median"}}, "combine must be mean"),
        ({"aggregation": {"norm_bound": 2.0}}, "combine must be mean"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(changes: Any, named: str) -> None:
    with pytest.raises(ValueError, match=r"aggregation\.kind is scaffold") as caught:
        scaffold_run(**changes)
    assert named in str(caught.value)


def test_formal_privacy_is_refused() -> None:
    private = {"training": "dp_sgd", "unprotected": ["latent_sums", "evaluate"]}
    plain: dict[str, Any] = {"statistics": {"refit_head": False}, "audit": {"enabled": False}}
    fine = scaffold_run(privacy=private, aggregation={"kind": "fedavg"}, **plain)
    assert fine.privacy.private
    with pytest.raises(ValueError, match=r"privacy\.training must be none: gradients leave"):
        scaffold_run(privacy=private, **plain)


def test_under_a_secure_sum_the_bits_are_the_same(tmp_path: Path) -> None:
    content = {**SHORT, "rounds": 2, "aggregation": {"kind": "scaffold"}}
    plain, _ = federate(tmp_path / "plain", RunConfig.model_validate(content))
    secure = {**content, "secure_sum": {"enabled": True, "updates": "exact"}}
    masked, _ = federate(tmp_path / "masked", RunConfig.model_validate(secure))
    assert np.array_equal(plain.weights, masked.weights)
    assert np.array_equal(plain.sums[CONTROL][CONTROL], masked.sums[CONTROL][CONTROL])
    assert plain.sums[CONTROL][CONTROL].any()
