from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.phantom_anatomy import Chest, Draws, Rays, draw_anatomy, draw_chest, draw_exposure
from simulation.phantom_findings import CLASSES, Findings, added_shadow, draw_findings

COUNT = 24


def shadows(
    finding: str, portable: bool = False
) -> tuple[NDArray[np.float32], Chest, Findings, Rays]:
    rng = np.random.default_rng(7)
    anatomy = draw_anatomy(
        Draws(rng.random((COUNT, 80))), rng.random(COUNT) < 0.5, rng.integers(0, 3, COUNT)
    )
    findings = draw_findings(Draws(rng.random((COUNT, 40))), np.full(COUNT, CLASSES.index(finding)))
    exposure = draw_exposure(Draws(rng.random((COUNT, 24))), np.full(COUNT, portable))
    rays = Rays(anatomy, exposure, 64)
    chest = draw_chest(rays, anatomy, exposure)
    return added_shadow(rays, exposure, findings, chest), chest, findings, rays


def test_a_finding_of_the_lung_adds_shadow_and_only_where_lung_is() -> None:
    for finding in ("infiltrate", "effusion", "nodule"):
        added, chest, _, _ = shadows(finding)
        assert added.min() >= 0
        assert (added.max(axis=(1, 2)) > 1).all()
        assert (added[chest.lungs[0] + chest.lungs[1] == 0] == 0).all()


def test_consolidation_never_adds_more_than_the_air_it_replaces() -> None:
    for finding in ("infiltrate", "effusion"):
        added, chest, _, _ = shadows(finding)
        assert (chest.shadow + added <= chest.tissue + chest.bone + 1e-3).all()


def test_nothing_is_added_without_a_finding_or_for_a_large_heart() -> None:
    for finding in ("none", "cardiomegaly"):
        assert not shadows(finding)[0].any()


def test_only_cardiomegaly_enlarges_the_heart() -> None:
    for finding in CLASSES:
        larger = shadows(finding)[2].enlargement
        assert (larger > 1.2).all() if finding == "cardiomegaly" else (larger == 1).all()


def test_a_finding_lies_on_its_own_side() -> None:
    for finding in ("infiltrate", "effusion", "nodule"):
        added, _, findings, rays = shadows(finding)
        x, _ = rays.at(0.5)
        centre = (added * x).sum(axis=(1, 2)) / added.sum(axis=(1, 2))
        assert (np.sign(centre) == findings.side[:, 0, 0]).mean() > 0.95


def test_an_effusion_lies_at_the_base_and_spreads_higher_when_lying_down() -> None:
    heights = []
    for portable in (False, True):
        added, chest, _, rays = shadows("effusion", portable)
        _, y = rays.at(0.5)
        lung = chest.lung
        centre = (added * y).sum(axis=(1, 2)) / added.sum(axis=(1, 2))
        assert (centre > (lung * y).sum(axis=(1, 2)) / lung.sum(axis=(1, 2))).all()
        spread = np.square(y - centre[:, None, None]) * added
        heights.append(np.sqrt(spread.sum(axis=(1, 2)) / added.sum(axis=(1, 2))).mean())
    assert heights[1] > heights[0]
