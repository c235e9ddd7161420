"""Models of a cell: scores of every test image, in the pool's order, and personal heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulation.table_models import ScoreJob, jobs_of, open_lesson, read_scores
from tests.simulation.tables import prepare_cell, small_table


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared cell whose federation is finished."""
    folder = tmp_path_factory.mktemp("cell")
    return prepare_cell(small_table(folder).cells[0], folder, federated=True)


@pytest.mark.parametrize(
    "kind", ["nearest_neighbour", "supervised", "shufflenet", "pooled", "local", "federated"]
)
def test_every_model_scores_every_test_image(cell: Path, kind: str) -> None:
    job = ScoreJob(cell, kind, site=1)
    facts = json.loads(job.compute().read_text(encoding="utf-8"))
    scores, lesson = read_scores(job), open_lesson(cell)
    assert scores.logits.shape == (len(lesson.test), 2) and np.isfinite(scores.logits).all()
    draws = kind in ("pooled", "local", "federated")
    assert len(scores.ssim) == (len(lesson.test) if draws else 0)
    assert facts["kind"] == kind
    if kind == "federated":
        assert [row["site"] for row in facts["personal"]] == list(lesson.names)
        assert scores.personal.shape == scores.logits.shape
        for site, row in enumerate(facts["personal"]):
            mine = lesson.sites == site
            same = np.allclose(scores.personal[mine], scores.logits[mine], atol=1e-5)
            assert same or row["own"]


def test_a_site_is_named_for_every_test_image(cell: Path) -> None:
    lesson = open_lesson(cell)
    counts = [len(images.select("test")) for images in lesson.sets]
    assert np.bincount(lesson.sites, minlength=2).tolist() == counts


def test_pooled_models_take_the_steps_of_all_sites(tmp_path: Path) -> None:
    plan = small_table(tmp_path)
    factors = {kind: jobs_of(plan.cells[0], tmp_path, kind, 2)[0].factor for kind in ("pooled",)}
    assert factors == {"pooled": 2}
    assert jobs_of(plan.cells[0], tmp_path, "nearest_neighbour", 2)[0].factor == 1
    assert len(jobs_of(plan.cells[0], tmp_path, "local", 2)) == 2
