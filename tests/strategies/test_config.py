"""The agreed run refuses what cannot work, at load and with every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfm_core.config import canonical_hash, dump_yaml, load_yaml
from mfm_core.errors import ConfigError
from strategies.config import RunConfig

GOOD = "name: first\nontology: {classes: [a, b]}\n"


def load(folder: Path, text: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(text)
    return load_yaml(path, RunConfig)


def test_formatting_and_defaults_do_not_change_the_hash(tmp_path: Path) -> None:
    plain = load(tmp_path, GOOD)
    spelled = load(tmp_path, "ontology:\n  classes:\n    - a\n    - b\nrounds: 20\nname: first\n")
    assert canonical_hash(plain) == canonical_hash(spelled)
    dump_yaml(plain, tmp_path / "again.yaml")
    assert canonical_hash(load_yaml(tmp_path / "again.yaml", RunConfig)) == canonical_hash(plain)
    assert canonical_hash(load(tmp_path, GOOD + "seed: 1\n")) != canonical_hash(plain)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("aggregation: {kind: fedprox}\n", "aggregation"),
        ("aggregation: {proximal_mu: 0.1}\n", "aggregation"),
        ("rounds: 3\nlearning: {objective: {attention: {rounds: 3}}}\n", "attention.rounds"),
        ("colour: blue\n", "colour"),
        ("rounds: 0\n", "rounds"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        load(tmp_path, GOOD + text)


def test_every_problem_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + "rounds: 0\nseed: -1\nimage: {size_px: 33}\n")
    assert len(caught.value.problems) == 3
