"""Judging a cell: right where the truth is known, and never twice what is there and whole."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mfm_core.atlas import atlas_from
from mfm_core.config import OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.head import Head
from mfm_core.head import fit_heads as discriminants
from mfm_core.latent_sums import latent_sum
from mfm_core.mitigation import METHODS, HeadData, Recipe
from simulation import bias_judge
from simulation.bias_evidence import Films, Sides, draw_weights, value_shares
from simulation.bias_judge import (
    EVIDENCE,
    SEEN_PROBES,
    Case,
    evidence_key,
    fit_heads,
    judge_cell,
    judge_head,
    probe_figures,
    read_evidence,
)
from simulation.grid import GridConfig

ONTOLOGY = OntologyConfig(classes=("healthy", "ill"), attributes={"view": ("AP", "PA")})
SIZE = 8


def config(**more: object) -> GridConfig:
    content = {
        "name": "g",
        "seeds": [0],
        "methods": ["erm", "leace"],
        "attribute": "view",
        "head_rounds": 3,
        "head_steps": 10,
        "replicates": 20,
        "cells": {"a": {}},
    }
    return GridConfig.model_validate({**content, **more})


def make_films(seed: int, coupling: float, patients: int = 400) -> Films:
    """Class on axis 0, view on axis 1 and, with weight 0.6, on axis 2."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, patients)
    values = (rng.random(patients) < 0.5 + coupling * (labels - 0.5)).astype(np.int64)
    mu = rng.standard_normal((patients, SIZE))
    mu[:, 0] += 1.5 * labels
    mu[:, 1] += 2.5 * values
    mu[:, 2] += 0.6 * values
    return Films(mu.astype(np.float32), labels, values, np.arange(patients))


def make_case(coupling: float = 0.8) -> Case:
    fitted, test, there = (
        make_films(s, c) for s, c in ((1, coupling), (2, coupling), (3, -coupling))
    )
    attributes = fitted.values[:, None]
    total = latent_sum(fitted.mu, fitted.labels, attributes, fitted.patients, ONTOLOGY)
    atlas = atlas_from(total, ONTOLOGY, "")
    halves = [np.arange(0, 250), np.arange(250, 400)]
    sites = tuple(
        HeadData(fitted.mu[h], fitted.labels[h], attributes[h], fitted.patients[h]) for h in halves
    )
    weights = draw_weights(test.patients, 20, 0), draw_weights(there.patients, 20, 1)
    sides = Sides(test, there, value_shares(fitted, 2), weights, ("AP", "PA"))
    head: Head = discriminants(atlas, (0.01,))[0]
    return Case(atlas, head, Recipe("view"), sites, fitted, sides)


def test_changed_images_change_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A held-out hospital whose images or labels were replaced must be judged anew."""
    for name in ("final.safetensors", "atlas.safetensors", "study.yaml"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(bias_judge, "load_yaml", lambda *_: SimpleNamespace(run="run"))
    pixels, few = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64)
    found = {"sites": pixels, "held_out": pixels.copy()}

    def opened(_: Path, __: object, kind: str) -> tuple[tuple[str, ...], list[ImageSet]]:
        images = found["held_out" if kind == bias_judge.HELD_OUT else "sites"]
        return ("a",), [ImageSet(images, few, few[:, None], few, few)]

    monkeypatch.setattr(bias_judge, "open_hospitals", opened)
    before = evidence_key(tmp_path, config())
    assert evidence_key(tmp_path, config()) == before
    found["held_out"][0, 0, 0, 0] = 1
    assert evidence_key(tmp_path, config()) != before


def test_erm_leans_on_the_view_and_the_class_conditional_methods_do_not() -> None:
    case = make_case()
    heads = fit_heads(METHODS, case, config())
    assert set(heads) == set(METHODS)
    known: dict = {}
    found = {name: judge_head(name, head, case, known) for name, head in heads.items()}
    assert found["erm"]["difference"][0] > 0.15
    for name in ("random_alpha", "leace", "reweighting", "lda", "ccvr"):
        assert abs(found[name]["difference"][0]) < 0.5 * found["erm"]["difference"][0], name
        assert found[name]["reversed"][0] > found["erm"]["reversed"][0] + 0.1, name
    assert found["random_alpha_marginal"]["difference"][0] < -0.05  # the paper's over-corrects
    assert found["erm"]["seen.linear.across"][0] > 0.9
    assert found["leace"]["seen.linear.across"][0] == pytest.approx(0.5, abs=0.1)
    assert found["erm"]["said.linear.across"][0] > found["leace"]["said.linear.across"][0] + 0.1
    assert set(known) == {"latents", "leace", "leace_shrunk"}  # once for all heads that see them


def test_probes_have_replicates_and_both_ways_of_fitting() -> None:
    case = make_case()
    inputs = [films.mu.astype(np.float64) for films in (case.fitted, case.sides.held_out)]
    figures = probe_figures(inputs[0], inputs[1], case, SEEN_PROBES)
    assert set(figures) == {f"{k}.{way}" for k in ("linear", "mlp") for way in ("across", "inside")}
    assert all(row.shape == (21,) and np.ptp(row[1:]) > 0 for row in figures.values())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished cell whose images are never opened: its case is synthetic, its probes quick."""
    for name in ("final", "atlas"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    monkeypatch.setattr(bias_judge, "read_case", lambda *_: make_case())
    monkeypatch.setattr(bias_judge, "SEEN_PROBES", (("linear", "across"),))
    monkeypatch.setattr(bias_judge, "SAID_PROBES", ())
    monkeypatch.setattr(bias_judge, "choose_penalty", lambda _: 0.03)
    return tmp_path


def test_only_what_is_missing_is_judged(folder: Path) -> None:
    assert judge_cell(folder, config()) == ("released", "erm", "leace")
    times = {p.name: p.stat().st_mtime_ns for p in (folder / EVIDENCE).iterdir()}
    assert judge_cell(folder, config()) == ()
    assert judge_cell(folder, config(methods=["erm", "lda", "leace"])) == ("lda",)
    assert {n: (folder / EVIDENCE / n).stat().st_mtime_ns for n in times} == times


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes"])
def test_a_damaged_file_is_judged_again(folder: Path, damage: str) -> None:
    judge_cell(folder, config())
    path = folder / EVIDENCE / "leace.safetensors"
    content, before = (
        path.read_bytes(),
        read_evidence(folder, config(), "leace", evidence_key(folder, config())),
    )
    changed = {"cut": content[:-40], "empty": b"", "other bytes": b"\x00" * len(content)}
    path.write_bytes(changed[damage])
    assert judge_cell(folder, config()) == ("leace",)
    after = read_evidence(folder, config(), "leace", evidence_key(folder, config()))
    assert before is not None and after is not None
    assert all(np.array_equal(after[name], row) for name, row in before.items())


@pytest.mark.parametrize(
    "change", [{"sigma": 1.0}, {"head_steps": 11}, {"head_rounds": 2}, {"replicates": 25}]
)
def test_evidence_of_other_settings_is_not_used(folder: Path, change: dict) -> None:
    other = config(**change)
    judge_cell(folder, config(methods=["lda"]))
    assert read_evidence(folder, other, "lda", evidence_key(folder, other)) is None


def test_evidence_of_another_model_is_not_used(folder: Path) -> None:
    judge_cell(folder, config(methods=["lda"]))
    (folder / "final.safetensors").write_bytes(b"trained again")
    key = evidence_key(folder, config())
    assert read_evidence(folder, config(), "lda", key) is None
    assert judge_cell(folder, config(methods=["lda"])) == ("released", "lda")


def case_of_seed(monkeypatch: pytest.MonkeyPatch, seed: int) -> Case:
    """Return a cell whose hospitals are the same under every seed and only the split differs."""
    rng = np.random.default_rng(0)
    images = ImageSet(
        np.zeros((80, 1, 1, 1), dtype=np.uint8), rng.integers(0, 2, 80),
        rng.integers(0, 2, (80, 1)), np.repeat(np.arange(40), 2),
        np.repeat(np.random.default_rng(seed).integers(0, 2, 40) * 2, 2),
    )  # fmt: skip
    run = SimpleNamespace(ontology=ONTOLOGY, seed=seed)
    head = SimpleNamespace(weight=torch.zeros(2, SIZE), bias=torch.zeros(2))
    mu = rng.standard_normal((80, SIZE)).astype(np.float32)
    stand_ins = {
        "load_yaml": lambda *_: SimpleNamespace(run=run),
        "load_model": lambda *_: (SimpleNamespace(head=head), {}),
        "encoder_hash": lambda *_: "",
        "load_atlas": lambda *_: None,
        "open_hospitals": lambda *_: (None, [images]),
        "infer": lambda *_: SimpleNamespace(mu=mu),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(bias_judge, name, stand_in)
    return bias_judge.read_case(Path(), config())


def test_a_patient_tested_under_several_seeds_is_drawn_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [case_of_seed(monkeypatch, seed) for seed in (1, 2)]
    one, other = (case.sides for case in cases)
    assert np.array_equal(one.weights[1], other.weights[1])
    assert one.weights[1].shape == (21, 80)
    of_patient = [
        {int(who): tuple(side.weights[0][:, row]) for row, who in enumerate(side.trained.patients)}
        for side in (one, other)
    ]
    shared = of_patient[0].keys() & of_patient[1].keys()
    assert 0 < len(shared) < len(of_patient[0])
    assert all(of_patient[0][who] == of_patient[1][who] for who in shared)
    assert not np.array_equal(one.weights[0][:, 0], one.weights[1][:, 0])
