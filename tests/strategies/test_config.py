"""The agreed run refuses what cannot work, at load and with every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mfm_core.autoencoder import build_autoencoder, count_parameters
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


WIDE = "model: {widths: [1024, 1024, 1024]}\n"


@pytest.mark.parametrize(
    "text",
    [
        "image: {size_px: 64}\n",
        "image: {size_px: 128}\n",
        "image: {size_px: 128}\nmodel: {stem: 8}\n",
        "image: {size_px: 224}\nmodel: {stem: 8}\n",
        "model: {latent_channels: 128}\n",
    ],
)
def test_a_model_that_can_be_sent_is_accepted(tmp_path: Path, text: str) -> None:
    run = load(tmp_path, GOOD + text)
    built = build_autoencoder(run.model, run.image, len(run.ontology.classes), seed=0)
    assert count_parameters(built) <= 1_400_000
    assert built.latent_size <= 2048


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image: {size_px: 160}\n", ("1,405,714 parameters", "3,200 numbers")),
        ("image: {size_px: 192}\n", ("1,794,322 parameters", "4,608 numbers")),
        ("image: {size_px: 224}\n", ("2,253,586 parameters", "6,272 numbers")),
        (WIDE, ("16,354,386 parameters", "smaller widths")),
        ("image: {size_px: 96}\nmodel: {latent_channels: 64}\n", ("2,304 numbers",)),
        (
            "image: {size_px: 96}\n"
            "model: {stem: 8, widths: [16, 16, 16, 16], depths: [1, 1, 1, 1]}\n",
            ("image: size_px is 96", "multiple of 64"),
        ),
    ],
)
def test_a_model_too_large_to_be_sent_is_refused_at_load(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + text)
    (problem,) = caught.value.problems
    assert all(word in problem for word in words), problem


def test_the_class_count_is_part_of_the_size(tmp_path: Path) -> None:
    names = ", ".join(f"c{number}" for number in range(160))
    large = f"name: first\nontology: {{classes: [{names}]}}\nimage: {{size_px: 128}}\n"
    with pytest.raises(ConfigError, match="parameters, allowed are 1,400,000"):
        load(tmp_path, large)


@pytest.mark.parametrize(
    ("learning", "found"),
    [
        ({"trainable": "lora", "objective": {"attention": {"rounds": 1}}}, "attention map cannot"),
        ({"pseudo_labels": {"from_round": 9}}, "from_round is 9 of 3 rounds"),
    ],
)
def test_learning_that_does_not_fit_the_run_is_refused(
    learning: dict[str, object], found: str
) -> None:
    content = {"name": "a", "rounds": 3, "ontology": {"classes": ["x", "y"]}, "learning": learning}
    with pytest.raises(ValidationError, match=found):
        RunConfig.model_validate(content)


@pytest.mark.parametrize("learning", [{"trainable": "lora"}, {"pseudo_labels": {"from_round": 2}}])
def test_personal_parts_exclude_partial_learning(
    learning: dict[str, object],
) -> None:
    content = {"name": "a", "ontology": {"classes": ["x", "y"]}, "learning": learning}
    RunConfig.model_validate(content)
    with pytest.raises(ValidationError, match=r"aggregation\.personal empty"):
        RunConfig.model_validate({**content, "aggregation": {"personal": ["norms"]}})


def test_problems_of_different_kinds_are_told_together(tmp_path: Path) -> None:
    text = """\
rounds: 3
learning: {trainable: lora, objective: {attention: {rounds: 3}}}
mitigation: {attribute: view}
aggregation: {personal: [head]}
model: {latent_channels: 128}
image: {size_px: 256}
"""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + text)
    told = str(caught.value)
    for words in (
        "'view' is not an attribute",
        "stage two needs at least one round",
        "so the attention map cannot learn",
        "leave aggregation.personal empty",
        "its latent has",
    ):
        assert words in told


def test_a_mitigated_head_that_sites_with_their_own_would_not_use_is_refused() -> None:
    content = {
        "name": "a",
        "ontology": {"classes": ["x", "y"], "attributes": {"view": ["AP", "PA"]}},
        "mitigation": {"attribute": "view", "use": "leace"},
        "aggregation": {"personal": ["norms"]},
    }
    RunConfig.model_validate(content)
    with pytest.raises(ValidationError, match="sites with a head of their own"):
        RunConfig.model_validate({**content, "aggregation": {"personal": ["head"]}})
