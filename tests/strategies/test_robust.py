"""A few lying sites cannot pull a robust update away; honest ones lose nothing by it."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from strategies.config import RunConfig
from strategies.robust import bounded, combined

HONEST = np.random.default_rng(0).normal(1.0, 0.1, (7, 50))


@pytest.mark.parametrize("how", ["median", "trimmed_mean"])
@pytest.mark.parametrize("liars", [1, 2])
def test_liars_below_the_trim_move_it_no_farther_than_honest_sites_lie_apart(how, liars):
    lies = np.full((liars, 50), 1e6) * np.where(np.arange(50) % 2, 1, -1)
    found = combined(np.vstack([HONEST, lies]), how, 0.25)
    assert (found >= HONEST.min(axis=0)).all() and (found <= HONEST.max(axis=0)).all()
    mean = combined(np.vstack([HONEST, lies]), "mean", 0.25)
    assert np.abs(mean).min() > 1e4, "the plain mean is pulled away, so the test can fail"


def test_without_liars_all_agree_with_the_mean_within_its_error():
    mean = HONEST.mean(axis=0)
    np.testing.assert_allclose(combined(HONEST, "mean", 0.0), mean)
    for how in ("median", "trimmed_mean"):
        assert np.abs(combined(HONEST, how, 0.2) - mean).max() < 0.15


def test_no_update_is_longer_than_the_bound_and_short_ones_stay():
    updates = [*HONEST, HONEST[0] * 100]
    found = bounded(updates, 1.5)
    norms = np.linalg.norm(found, axis=1)
    most = 1.5 * np.median(np.linalg.norm(np.stack(updates), axis=1))
    assert norms.max() <= most * (1 + 1e-12)
    np.testing.assert_array_equal(found[:7], HONEST)
    np.testing.assert_allclose(found[7] / norms[7], HONEST[0] / np.linalg.norm(HONEST[0]))
    np.testing.assert_array_equal(bounded(updates, None)[7], updates[7])
    assert np.isfinite(bounded([np.zeros(3), np.zeros(3)], 1.0)).all()


@pytest.mark.parametrize("looks", [{"combine": "median"}, {"norm_bound": 2.0}])
def test_a_run_that_hides_updates_cannot_inspect_them(looks):
    content = {"name": "r", "ontology": {"classes": ["a", "b"]}, "aggregation": looks}
    RunConfig.model_validate(content)
    with pytest.raises(ValidationError, match="choose one"):
        RunConfig.model_validate({**content, "secure_sum": {"enabled": True}})
