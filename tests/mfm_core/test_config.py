"""Configuration: every problem at once, by dotted path; equal settings, equal hashes."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from mfm_core.config import (
    DataConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    OntologyConfig,
    Part,
    canonical_hash,
    dump_yaml,
    load_yaml,
    parse_yaml,
    problems_of,
)
from mfm_core.errors import ConfigError


class _Both(Part):
    ontology: OntologyConfig
    model: ModelConfig = ModelConfig()
    learning: LearningConfig = LearningConfig()


def _problems(tmp_path: Path, text: str, part: type[BaseModel] = _Both) -> tuple[str, ...]:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, part)
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_all_problems_are_listed_by_dotted_path(tmp_path: Path) -> None:
    found = _problems(
        tmp_path,
        "ontology: {classes: [a]}\n"
        "model: {stem: 5, widths: [], colour: red}\n"
        "learning: {training: {learning_rate: .inf}}\n",
    )
    paths = {problem.split(":")[0] for problem in found}
    assert paths == {
        "ontology.classes",
        "model.stem",
        "model.widths",
        "model.colour",
        "learning.training.learning_rate",
    }


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ontology: {classes: [a, a]}", "stands twice"),
        ("ontology: {classes: [a, '']}", "at least 1"),
        ("ontology: {classes: [no, yes]}", "quotes"),
        ("ontology: {classes: [a, b], attributes: {x.count: [p, q]}}", "pattern"),
        ("ontology: {classes: [a, b], attributes: {x: [p]}}", "two or more"),
        ("ontology: {classes: [a, b]}\nontology: {classes: [a, b]}", "stands twice"),
        ("ontology: {classes: [a, b]}\nmodel: {widths: [-4], depths: [1]}", "greater than or"),
        ("ontology: {classes: [a, b]}\nmodel: {widths: [18], depths: [1]}", "divide"),
        ("ontology: {classes: [a, b]}\nmodel: {widths: [64, 64]}", "same number"),
        ("- a list", "mapping"),
        ("a: [unclosed", "YAML"),
    ],
)
def test_each_wrong_file_is_explained(tmp_path: Path, text: str, word: str) -> None:
    assert word in " ".join(_problems(tmp_path, text))


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "absent.yaml", ImageConfig)


def test_nothing_left_to_train_is_refused(tmp_path: Path) -> None:
    text = "root: .\nval_fraction: 0.4\ntest_fraction: 0.7"
    assert "below 1" in _problems(tmp_path, text, DataConfig)[0]


def test_a_dumped_configuration_loads_equal(tmp_path: Path) -> None:
    config = _Both(ontology=OntologyConfig(classes=("a", "b"), attributes={"view": ("AP", "PA")}))
    dump_yaml(config, tmp_path / "copy.yaml")
    assert load_yaml(tmp_path / "copy.yaml", _Both) == config


def test_the_hash_ignores_order_and_sees_every_value() -> None:
    one = ModelConfig.model_validate({"groups": 4, "stem": 4})
    other = ModelConfig.model_validate({"stem": 4, "groups": 4})
    assert canonical_hash(one) == canonical_hash(other)
    assert canonical_hash(one) != canonical_hash(ModelConfig(latent_channels=16))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ImageConfig().size_px = 128  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["a: 2020-99-01", "a: " + "[" * 3000, "a: !!bool maybe", "a: 1\na: 2", "? [a]\n: 1"]
)
def test_text_that_yaml_cannot_read_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_yaml(text)


class Word(Part):
    word: str


class Toy(Part):
    count: int = Field(1, ge=1)
    share: float = Field(0.5, lt=1)
    on: bool = False
    kinds: tuple[Literal["a", "b"], ...] = Field(("a",), min_length=1)
    inner: Word = Word(word="x")


def toy_problems(**content: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Toy.model_validate(content)
    return problems_of(caught.value, "toy")


def test_every_wrong_value_is_told_in_plain_words() -> None:
    wrong = {"count": "ten", "share": 2, "on": "perhaps", "kinds": [], "inner": {}}
    assert toy_problems(**wrong) == [
        "toy.count: expected a whole number (found 'ten')",
        "toy.share: must be less than 1 (found 2)",
        "toy.on: expected true or false (found 'perhaps')",
        "toy.kinds: expected 1 or more entries (found [])",
        "toy.inner.word: is missing; add it",
    ]
    assert toy_problems(inner=3) == ["toy.inner: expected keys with values (found 3)"]


def test_a_list_of_wrong_entries_is_not_called_short_too() -> None:
    assert toy_problems(kinds=["x", "a"]) == ["toy.kinds.0: must be 'a' or 'b' (found 'x')"]
    assert toy_problems(kinds=["x"]) == ["toy.kinds.0: must be 'a' or 'b' (found 'x')"]


def test_problems_are_in_words_of_people():
    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate({"root": "x", "where": {"view": "AP"}})
    assert problems_of(caught.value) == [
        "where.view: expected a list, e.g. [a, b] (found 'AP')",
    ]
