"""The agreed private release: noise by the table, shares under a secure sum, wrong settings."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from strategies.config import RunConfig
from strategies.plan import KINDS
from strategies.privacy import label_of
from strategies.private_atlas import (
    PrivateAtlasConfig,
    cell_plan,
    released_deviation,
    site_deviation,
)

RUN = {
    "name": "atlas",
    "ontology": {"classes": ["a", "b"], "attributes": {"view": ["AP", "PA"]}},
    "privacy": {"atlas": {"mechanism": "gaussian", "epsilon": 4, "attributes": ["view"]}},
}


def run_with(**changes: object) -> RunConfig:
    return RunConfig.model_validate({**RUN, **changes})


def test_the_release_is_formal_and_the_rest_is_not_called_so() -> None:
    run = run_with()
    formal = [kind for kind in KINDS if label_of(run, kind).level == "formal"]
    assert formal == ["latent_sums"]
    label = label_of(run, "latent_sums")
    assert (label.unit, label.delta) == ("patient", 1e-6)
    assert label.noise_multiplier == pytest.approx(1.194, abs=2e-3)
    assert "epsilon 4" in label.words and "add or remove one patient" in label.words


def test_noise_follows_sensitivity_and_shares() -> None:
    run = run_with()
    assert cell_plan(run).sensitivity == pytest.approx(math.sqrt(5))
    whole = run.privacy.atlas.sigma * math.sqrt(5)
    assert site_deviation(run) == pytest.approx(whole)
    assert released_deviation(run, 8) == pytest.approx(whole * math.sqrt(8))
    secure = run_with(secure_sum={"enabled": True})
    assert released_deviation(secure, 3) == pytest.approx(whole)
    assert released_deviation(secure, 8) == pytest.approx(whole * math.sqrt(8 / 3))


@pytest.mark.parametrize(
    ("atlas", "found"),
    [
        ({"mechanism": "gaussian"}, "needs epsilon or noise_multiplier"),
        ({"epsilon": 4}, "none needs neither"),
        ({"mechanism": "gaussian", "epsilon": 4, "noise_multiplier": 1}, "not both"),
        ({"mechanism": "gaussian", "epsilon": 4, "directions": 65}, "directions"),
        ({"mechanism": "gaussian", "epsilon": 4, "attributes": ["view", "view"]}, "twice"),
        ({"mechanism": "gaussian", "epsilon": 4, "attributes": ["age"]}, "age not in the ontology"),
    ],
)
def test_what_cannot_be_is_refused(atlas: dict[str, object], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        run_with(privacy={"atlas": atlas})


def test_a_secure_sum_must_hold_as_many_sites_as_share_the_noise() -> None:
    atlas = {"mechanism": "gaussian", "epsilon": 4, "min_sites": 6}
    with pytest.raises(ValidationError, match=r"secure_sum.min_sites is 3"):
        run_with(privacy={"atlas": atlas}, secure_sum={"enabled": True})
    run_with(privacy={"atlas": atlas}, secure_sum={"enabled": True, "min_sites": 6})


def test_mitigation_needs_the_cells_of_its_attribute() -> None:
    with pytest.raises(ValidationError, match="must list view"):
        run_with(
            mitigation={"attribute": "view"},
            privacy={"atlas": {"mechanism": "gaussian", "epsilon": 4}},
        )


def test_a_private_run_need_not_list_a_private_release() -> None:
    atlas = {"mechanism": "gaussian", "epsilon": 4}
    privacy = {"training": "dp_sgd", "unprotected": ["evaluate", "audit"], "atlas": atlas}
    run = run_with(statistics={"refit_head": False}, privacy=privacy)
    assert label_of(run, "train").level == label_of(run, "latent_sums").level == "formal"


def test_nothing_is_private_by_default() -> None:
    assert PrivateAtlasConfig().sigma == 0.0
