from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.inference import infer
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.slices import SMALLEST_HALF, Slice, decode_slices, find_slices
from simulation.phantoms import (
    CLASSES,
    HospitalPhantoms,
    PhantomBatch,
    PhantomConfig,
    ScannerConfig,
    draw_phantoms,
)
from tests.mfm_core.blob_world import blob_world

SIDE = 32


@pytest.fixture(scope="module")
def phantoms() -> tuple[PhantomBatch, NDArray[np.float32]]:
    """Films of two X-ray machines, and their latents from a model without training."""
    torch.set_num_threads(1)
    machines = (ScannerConfig(name="A"), ScannerConfig(name="B", gamma=1.3, window=0.8))
    findings = {"none": 0.5, "effusion": 0.5}
    home = HospitalPhantoms(
        name="north", patients=420, class_probabilities=findings, scanners=machines
    )
    films = draw_phantoms(PhantomConfig(seed=5, size_px=SIDE, hospitals=(home,)), home)
    images = ImageSet(films.images, films.labels, films.attributes, films.patients, films.splits)
    shape = ModelConfig(widths=(32, 64), depths=(1, 1), latent_channels=16)
    model = build_autoencoder(shape, ImageConfig(size_px=SIDE), len(CLASSES), seed=0)
    everyone = np.arange(len(images))
    start_linear_path(model, patch_moments(images, everyone, shape))
    return films, infer(model, images, everyone).mu


def search(films, mu, chance, seed) -> tuple[Slice, ...]:
    """Return the slices when the model errs with a chance per image."""
    wrong = np.random.default_rng(seed).random(len(mu)) < chance
    return find_slices(mu, films.labels, wrong, films.patients, CLASSES, seed)


@pytest.mark.parametrize("field", ["scanner", "view"])
def test_a_planted_weakness_is_found(phantoms, field):
    films, mu = phantoms
    weak = films.scanners == 1 if field == "scanner" else films.attributes[:, 0] == 0
    found = 0
    for seed in range(10):
        rows = search(films, mu, np.where(weak, 0.4, 0.05), seed)
        found += rows[0].found and rows[0].errors / rows[0].n > 0.2
    assert found >= 9


def test_nothing_is_found_where_nothing_is(phantoms):
    films, mu = phantoms
    alarms = [any(row.found for row in search(films, mu, 0.15, seed)) for seed in range(25)]
    assert np.mean(alarms) <= 0.05


@pytest.mark.slow
def test_false_alarms_stay_at_five_percent_over_many_nulls(phantoms):
    films, mu = phantoms
    alarms = [any(row.found for row in search(films, mu, 0.25, seed)) for seed in range(400)]
    assert np.mean(alarms) <= 0.05


def invented(n=400, seed=0, size=6):
    rng = np.random.default_rng(seed)
    labels, hidden = rng.integers(0, 2, n), rng.random(n) < 0.4
    mu = rng.normal(size=(n, size)) + 6 * hidden[:, None] + 3 * labels[:, None]
    return mu, labels, hidden, rng


def test_a_hidden_group_is_separated_and_its_centre_lies_on_it():
    mu, labels, hidden, rng = invented()
    wrong = rng.random(len(mu)) < np.where(hidden, 0.5, 0.02)
    rows = find_slices(mu, labels, wrong, np.arange(len(mu)), ("a", "b"), seed=1)
    first = rows[0]
    assert first.found and first.cluster == 1
    k = ("a", "b").index(first.label)
    truth = mu[hidden & (labels == k)].mean(axis=0)
    assert np.abs(first.centre - truth).max() < 1.0
    assert first.errors / first.n > 0.35
    assert first.other_errors / first.others < 0.1


def test_counts_are_of_one_half_and_of_patients():
    mu, labels, _, rng = invented(n=300)
    patients, wrong = np.arange(300) // 3, rng.random(300) < 0.3
    same = labels[patients * 3]
    rows = find_slices(mu, same, wrong, patients, ("a", "b"))
    per_class = {row.label: row.n + row.others for row in rows}
    people = {name: (same[::3] == k).sum() for k, name in enumerate(("a", "b"))}
    assert set(per_class) == set(people)
    for name, count in per_class.items():
        assert 0.3 * people[name] < count < 0.7 * people[name]


def test_copies_of_a_patient_are_no_evidence():
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(20):
        mu, wrong = rng.normal(size=(40, 4)), rng.random(40) < 0.3
        everything = [np.repeat(array, 20, axis=0) for array in (mu, wrong, np.arange(40))]
        rows = find_slices(everything[0], np.zeros(800, int), *everything[1:], ("a",), seed)
        alarms += any(row.found for row in rows)
    assert alarms <= 1


def test_the_same_seed_gives_the_same_table():
    mu, labels, hidden, rng = invented()
    wrong = rng.random(len(mu)) < np.where(hidden, 0.3, 0.1)
    tables = [
        [row.to_dict() for row in find_slices(mu, labels, wrong, np.arange(400), ("a", "b"), seed)]
        for seed in (3, 3, 4)
    ]
    assert tables[0] == tables[1] != tables[2]
    json.dumps(tables)
    assert "centre" not in tables[0][0]


def test_p_values_are_ranked_and_corrected():
    mu, labels, hidden, rng = invented()
    wrong = rng.random(len(mu)) < np.where(hidden, 0.3, 0.1)
    rows = find_slices(mu, labels, wrong, np.arange(400), ("a", "b"))
    p, q = [row.p for row in rows], [row.q for row in rows]
    assert p == sorted(p) and q == sorted(q)
    assert all(corrected >= raw for raw, corrected in zip(p, q, strict=True))
    bound = [raw * len(p) / rank for rank, raw in enumerate(p, 1)]
    assert q[0] == pytest.approx(min(bound))
    for row in rows:
        table = [[row.errors, row.n - row.errors]]
        table += [[row.other_errors, row.others - row.other_errors]]
        assert row.p == pytest.approx(fisher_exact(table, alternative="greater")[1])


@pytest.mark.parametrize("wrong", [True, False])
def test_all_right_or_all_wrong_finds_nothing(wrong):
    mu, labels, _, _ = invented()
    rows = find_slices(mu, labels, np.full(400, wrong), np.arange(400), ("a", "b"))
    assert rows and not any(row.found for row in rows)


def test_small_classes_are_left_out():
    mu, labels, _, _ = invented(n=2 * SMALLEST_HALF - 2)
    wrong = np.zeros(len(mu), bool)
    assert find_slices(mu, labels, wrong, np.arange(len(mu)), ("a", "b")) == ()
    assert find_slices(mu[:0], labels[:0], wrong[:0], labels[:0], ("a", "b")) == ()


def test_latents_that_do_not_vary_give_no_slice():
    labels = np.zeros(60, int)
    assert find_slices(np.ones((60, 5)), labels, labels == 1, np.arange(60), ("a", "b")) == ()


def test_unusable_input_is_refused():
    mu, labels, _, _ = invented(n=40)
    wrong, people = np.zeros(40, bool), np.arange(40)
    with pytest.raises(DataError, match="expected latents"):
        find_slices(mu, labels[:3], wrong, people, ("a", "b"))
    mu[0, 0] = np.nan
    with pytest.raises(DataError, match="diverged"):
        find_slices(mu, labels, wrong, people, ("a", "b"))


def test_centres_are_drawn():
    world = blob_world()
    mean = world.atlas.means[1]
    row = Slice("left blob", 1, "cluster", 5, 3, 9, 0, 0.01, 0.02, mean)
    drawn = decode_slices(world.model, (row, row))
    assert drawn.shape == (2, 1, SIDE, SIDE) and 0 <= drawn.min() < drawn.max() <= 1
    left, right = drawn[0, 0, :, : SIDE // 2].max(), drawn[0, 0, :, SIDE // 2 :].max()
    assert left > right
    assert decode_slices(world.model, ()).shape == (0, 1, SIDE, SIDE)
