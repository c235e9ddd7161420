"""A tiny study goes through, and noise costs what it must."""

from __future__ import annotations

import numpy as np
import pytest

from mfm_core.errors import ConfigError
from simulation import privacy_study
from simulation.privacy_study import (
    PHI,
    Figure,
    StudySize,
    auc,
    draw_films,
    figure_of,
    make_table,
    run_privacy,
    run_study,
)
from simulation.progress import choose_display

TINY = StudySize(
    patients=200,
    tests=30,
    teachers=20,
    steps=3,
    directions=8,
    draws=1,
    films=16,
    sites=4,
    min_sites=3,
)


def test_auc_counts_pairs() -> None:
    wanted = np.array([True, True, False, False])
    assert auc(np.array([3.0, 1.0, 1.0, 0.0]), wanted) == 3.5 / 4


def test_patients_are_coupled_as_asked() -> None:
    films = draw_films("cohort", 300, PHI, 0)
    sick = films.labels == 2
    lying = films.attributes[:, 0] == 0
    assert np.corrcoef(sick, lying)[0, 1] > 0.3


def test_noise_costs_and_the_public_directions_bound_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(privacy_study, "SMALLEST", 1.0)
    with choose_display(quiet=True) as display:
        content = run_study(TINY, 0, display)
    rows = {(row["basis"], row["sum"], row["epsilon"]): row for row in content["rows"]}
    assert len(rows) == 1 + 2 * (1 + 4 * 2)
    assert rows["all L, exact", "-", None]["class axes"]["value"] == pytest.approx(1.0)
    free = rows["public films", "-", None]["view axis"]["value"]
    assert 0 < free <= 1
    noisy = rows["public films", "each site alone", 1.0]["view axis"]["value"]
    assert noisy < free
    assert make_table(content).row_count == len(rows)


def test_figures_and_sizes() -> None:
    assert figure_of([1.0]) == Figure(1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="min_sites"):
        run_privacy(StudySize(min_sites=9))
