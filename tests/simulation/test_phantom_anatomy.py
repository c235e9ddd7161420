from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulation.phantom_anatomy import (
    FIELD_CM,
    SOURCE_DISTANCE_CM,
    Anatomy,
    Draws,
    Exposure,
    Rays,
    draw_anatomy,
    draw_chest,
    draw_exposure,
    heart_chord,
    heart_depth,
    magnification,
)

COUNT = 12


def patients(seed: int = 0) -> Anatomy:
    rng = np.random.default_rng(seed)
    female, age = rng.random(COUNT) < 0.5, rng.integers(0, 3, COUNT)
    return draw_anatomy(Draws(rng.random((COUNT, 80))), female, age)


def straight(portable: bool) -> Exposure:
    """Return circumstances that differ in nothing but the geometry of the projection."""
    drawn = draw_exposure(Draws(np.full((COUNT, 24), 0.5)), np.full(COUNT, portable, dtype=bool))
    same = draw_exposure(Draws(np.full((COUNT, 24), 0.5)), np.zeros(COUNT, dtype=bool))
    return replace(
        same,
        source_distance=drawn.source_distance,
        front_at_detector=drawn.front_at_detector,
    )


def heart_width_px(anatomy: Anatomy, exposure: Exposure, size_px: int) -> NDArray[np.float64]:
    rays = Rays(anatomy, exposure, size_px)
    heart = heart_chord(rays, anatomy, exposure, np.ones((COUNT, 1, 1), np.float32)) > 0
    columns = heart.any(axis=1)
    return np.asarray(columns.sum(axis=1), dtype=np.float64)


def test_heart_is_wider_in_ap_exactly_as_the_geometry_says() -> None:
    anatomy = patients()
    ap, pa = straight(portable=True), straight(portable=False)
    size_px = 1024
    measured = heart_width_px(anatomy, ap, size_px) / heart_width_px(anatomy, pa, size_px)
    depth = heart_depth(anatomy)
    predicted = magnification(anatomy, ap, depth) / magnification(anatomy, pa, depth)
    np.testing.assert_allclose(measured, predicted[:, 0, 0], rtol=0.012)  # 3 pixels of 250
    assert measured.min() > 1.08


def test_magnification_is_that_of_a_point_source() -> None:
    anatomy = patients()
    depth = np.full((COUNT, 1, 1), 7.0, dtype=np.float32)
    pa = magnification(anatomy, straight(portable=False), depth)
    np.testing.assert_allclose(pa, 180.0 / (180.0 - 10.0), rtol=1e-6)
    ap = magnification(anatomy, straight(portable=True), depth)
    np.testing.assert_allclose(ap, 100.0 / (100.0 - (anatomy.depth - 7.0 + 3.0)), rtol=1e-6)
    assert SOURCE_DISTANCE_CM["PA"] > SOURCE_DISTANCE_CM["AP"]


def test_a_point_on_the_detector_is_seen_at_its_place_divided_by_the_magnification() -> None:
    anatomy, exposure = patients(), straight(portable=True)
    x, _ = Rays(anatomy, exposure, 64).at(0.5)
    larger = magnification(anatomy, exposure, np.asarray(0.5 * anatomy.depth))
    pixel_cm = FIELD_CM / 64 / larger / anatomy.scale
    np.testing.assert_allclose(np.diff(x, axis=2)[:, 32, 32], pixel_cm[:, 0, 0], rtol=2e-3)


def test_lungs_are_darker_than_heart_and_spine_and_bones_brighter() -> None:
    anatomy, exposure = patients(), straight(portable=False)
    chest = draw_chest(Rays(anatomy, exposure, 64), anatomy, exposure)
    shadow, lung = chest.shadow, chest.lung
    assert min(part.min() for part in (chest.tissue, chest.bone, chest.heart, lung)) >= 0
    deep_lung, heart = lung > 8, (chest.heart > 6) & (lung < 4)
    for index in range(COUNT):
        air = shadow[index][deep_lung[index]].mean()
        assert air + 3 < shadow[index][heart[index]].mean()


def test_an_older_patient_has_thinner_bones_and_a_wider_aorta() -> None:
    uniforms = np.random.default_rng(3).random((COUNT, 80))
    nobody = np.zeros(COUNT, dtype=bool)
    young = draw_anatomy(Draws(uniforms), nobody, np.zeros(COUNT, dtype=np.int64))
    old = draw_anatomy(Draws(uniforms), nobody, np.full(COUNT, 2))
    assert (old.rib_density < young.rib_density).all()
    assert (old.aorta > young.aorta).all()
    woman = draw_anatomy(Draws(uniforms), ~nobody, np.zeros(COUNT, dtype=np.int64))
    assert (woman.breast > 0).all()
    assert (young.breast == 0).all()


def test_lying_down_raises_the_diaphragm_and_moves_the_shoulder_blades_in() -> None:
    uniforms = np.random.default_rng(4).random((COUNT, 24))
    standing = draw_exposure(Draws(uniforms), np.zeros(COUNT, dtype=bool))
    lying = draw_exposure(Draws(uniforms), np.ones(COUNT, dtype=bool))
    assert (lying.diaphragm < standing.diaphragm).all()
    assert (lying.scapula_x < standing.scapula_x).all()
    assert (lying.scatter > standing.scatter).all()
