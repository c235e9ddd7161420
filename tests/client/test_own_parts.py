"""A hospital's own parts come back after each round, bit for bit, and never leave their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.own_parts import FILE, own_places, recall, remember, with_own
from client.site import open_site
from mfm_core.checkpoint import flat_weights, load_model, weight_schema
from mfm_core.config import dump_yaml
from server.app import final_hash, run_federation
from strategies.config import RunConfig
from tests.server.hospitals import (
    RUN,
    Killed,
    consortium,
    dying_after,
    lay_out,
    make_grid,
    site_config,
)

SITES = ("north", "south")
SCHEMA = (("encoder.norm.weight", (3,)), ("encoder.first.weight", (2, 2)), ("head.bias", (2,)))


def test_places_are_those_of_the_named_parts() -> None:
    assert own_places(SCHEMA, ["norms"]).tolist() == [True] * 3 + [False] * 6
    assert own_places(SCHEMA, ["head"]).tolist() == [False] * 7 + [True] * 2
    assert not own_places(SCHEMA, []).any()
    weights = np.arange(9, dtype=np.float32)
    changed = with_own(weights, own_places(SCHEMA, ["head"]), np.array([-1, -2], np.float32))
    assert changed.tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -2] and weights[8] == 8


def test_a_repeated_round_starts_from_the_round_before_it(tmp_path: Path) -> None:
    assert recall(tmp_path, "run", "parts", 3) is None
    for number in (1, 2, 3):
        remember(tmp_path, "run", number, {"parts": np.full(2, number, np.float32)})
    assert recall(tmp_path, "run", "parts", 4)[0] == 3  # type: ignore[index]
    assert recall(tmp_path, "run", "parts", 3)[0] == 2  # type: ignore[index]
    assert recall(tmp_path, "run", "parts", 2) is None, "only two rounds are kept"
    remember(tmp_path, "run", 3, {"parts": np.full(2, 30, np.float32)})
    assert recall(tmp_path, "run", "parts", 4)[0] == 30  # type: ignore[index]
    assert recall(tmp_path, "run", "parts", 3)[0] == 2  # type: ignore[index]


def test_another_run_or_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    remember(tmp_path, "run", 1, {"parts": np.ones(2, np.float32)})
    assert recall(tmp_path, "other", "parts", 9) is None
    (tmp_path / FILE).write_bytes(b"no safetensors")
    assert recall(tmp_path, "run", "parts", 9) is None


def personal_run(*parts: str) -> RunConfig:
    content = RUN.model_dump()
    content["aggregation"]["personal"] = parts
    return RunConfig.model_validate(content)


def test_hospitals_share_the_rest_and_differ_in_their_own_parts(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "own", run=personal_run("norms", "head"))
    state = run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    finals = [load_model(folder / "state" / name / "final.safetensors")[0] for name in SITES]
    north, south = (flat_weights(model) for model in finals)
    places = own_places(weight_schema(finals[0]), ["norms", "head"])
    assert np.array_equal(north[~places], south[~places])
    assert np.array_equal(north[~places], state.weights[~places])
    assert (north[places] != south[places]).mean() > 0.9
    means = (north[places] + south[places]) / 2
    norms = own_places(weight_schema(finals[0]), ["norms"])[places]
    np.testing.assert_allclose(means[norms], state.weights[places][norms], atol=1e-6)


def test_killed_and_resumed_is_the_unbroken_run(tmp_path: Path) -> None:
    """The second round is asked twice of a hospital that had answered it already."""
    folder = lay_out(tmp_path / "own", run=personal_run("norms"))
    unbroken = run_federation(make_grid(folder), consortium(folder, "unbroken"), resume=False)
    dying = dying_after(7)
    settings = consortium(folder, "killed")
    with pytest.raises(Killed):
        run_federation(make_grid(folder, wrap={0: dying, 1: dying}), settings, resume=False)
    state = run_federation(make_grid(folder), settings, resume=True)
    assert final_hash(state) == final_hash(unbroken)


def test_formal_privacy_and_own_parts_are_refused_together() -> None:
    content = personal_run("norms").model_dump()
    content["privacy"]["training"] = "dp_sgd"
    with pytest.raises(ValueError, match=r"aggregation\.personal"):
        RunConfig.model_validate(content)
    with pytest.raises(ValueError, match="stands twice"):
        personal_run("head", "head")


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_site_without_labels_has_no_head_of_its_own(tmp_path: Path, unlabelled: bool) -> None:
    """It would keep an untrained one; the common head is better."""
    folder = lay_out(tmp_path / "own", run=personal_run("norms", "head"))
    config = site_config("north")
    data = config.data.model_copy(update={"unlabelled": unlabelled})
    dump_yaml(config.model_copy(update={"data": data}), folder / "sites" / "0.yaml")
    site = open_site(folder / "sites" / "0.yaml")
    assert site.personal == (("norms",) if unlabelled else ("norms", "head"))
    before = site.starting_weights
    site.load(before + 1)
    site.keep_own(1)
    head = own_places(site.schema, ["head"])
    kept = flat_weights(site.load(before, 2))
    assert np.array_equal(kept[head], before[head]) == unlabelled
    assert not np.array_equal(kept[~head], before[~head])
