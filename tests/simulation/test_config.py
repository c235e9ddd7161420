"""Study files: every problem at once, impossible combinations refused, --set."""

from pathlib import Path

import pytest
import yaml

from mfm_core.config import dump_yaml, read_yaml
from mfm_core.errors import ConfigError
from simulation.config import FolderSource, StudyConfig, expected_sites, load_study
from tests.simulation.samples import folder_study, tiny_study, write_study

STUDIES = Path(__file__).parents[2] / "simulation" / "studies"
SHIPPED = [path for path in sorted(STUDIES.glob("*.yaml")) if "run" in read_yaml(path)]


def problems(tmp_path: Path, content: dict, **settings: str) -> tuple[str, ...]:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(path, {key.replace("__", "."): value for key, value in settings.items()})
    return caught.value.problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_load_and_survive_being_written(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    assert study.run.name == path.stem
    dump_yaml(study, tmp_path / "again.yaml")
    assert load_study(tmp_path / "again.yaml") == study


def test_shipped_studies_name_no_absolute_path() -> None:
    for path in SHIPPED:
        source = load_study(path).source
        assert not isinstance(source, FolderSource) or not source.data.root.is_absolute()


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    content = tiny_study(hospitals={"kind": "dirichlet", "sites": 1, "alpha": -1}, typo=1)
    content["run"]["rounds"] = 0
    content["run"]["learning"]["training"]["batch_size"] = "many"
    found = problems(tmp_path, content)
    for start in ("hospitals.sites", "hospitals.alpha", "typo", "run.rounds"):
        assert any(line.startswith(start) for line in found), (start, found)
    assert any("batch_size" in line for line in found)


def test_paths_of_problems_hold_keys_of_the_file_only(tmp_path: Path) -> None:
    content = tiny_study(split={"kind": "folds", "folds": 1})
    assert problems(tmp_path, content)[0].startswith("split.folds:")


def test_impossible_combinations_are_refused(tmp_path: Path) -> None:
    content = tiny_study(hospitals={"kind": "dirichlet", "sites": 150}, quorum=151)
    content["source"]["phantoms"]["size_px"] = 32
    content["run"]["image"]["size_px"] = 64
    found = " ".join(problems(tmp_path, content))
    assert "quorum is 151 of 150" in found
    assert "150 hospitals for 105 patients" in found
    assert "smaller than run.image.size_px 64" in found


def test_attention_needs_a_round_of_stage_two(tmp_path: Path) -> None:
    found = problems(tmp_path, tiny_study(), run__learning__objective__attention__rounds="2")
    assert "stage two needs at least one round" in found[0]


def test_rules_may_only_name_what_the_ontology_has(tmp_path: Path) -> None:
    tie = {"attribute": "view", "value": "LAT", "label": "flu", "share": 0.5}
    site = {"name": "a", "where": {"scanner": ["a"]}, "coupling": {**tie, "share_of_others": 0.5}}
    other = {"name": "b", "where": {"scanner": ["b"]}}
    content = folder_study(hospitals={"kind": "explicit", "sites": [site, other]})
    found = problems(tmp_path, content)
    assert any("'LAT' is no value of view" in line for line in found)
    assert any("'flu' is not a class" in line for line in found)
    content = folder_study(hospitals={"kind": "attribute", "attribute": "weather"})
    assert "'weather' is not an attribute" in problems(tmp_path, content)[0]


@pytest.mark.parametrize("root", ["/data", "../data"])
def test_a_study_names_no_place_outside_the_data_folder(tmp_path: Path, root: str) -> None:
    content = folder_study(source={"kind": "folder", "data": {"root": root}})
    assert "relative to the folder given as --data" in problems(tmp_path, content)[0]


def test_set_changes_nested_keys_and_is_checked_like_the_file(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = load_study(path, {"run.rounds": "7", "run.ontology.attributes": "{}"})
    assert study.run.rounds == 7
    assert study.run.ontology.attributes == {}
    with pytest.raises(ConfigError, match=r"run\.round: unknown key"):
        load_study(path, {"run.round": "7"})
    with pytest.raises(ConfigError, match="does not lead to a key"):
        load_study(path, {"run.rounds.more": "7"})


@pytest.mark.parametrize(
    ("text", "reason"), [("[1, 2", "is not readable YAML"), ("- 1", "a mapping")]
)
def test_files_that_are_no_study(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        load_study(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "absent.yaml")


def test_expected_sites_is_known_only_where_the_file_tells() -> None:
    rules = {
        5: {"kind": "dirichlet", "sites": 5},
        2: {"kind": "attribute", "attribute": "view"},
        None: {"kind": "column", "column": "scanner"},
    }
    for count, rule in rules.items():
        assert expected_sites(StudyConfig.model_validate(folder_study(hospitals=rule))) == count


def test_unknown_keys_do_not_hide_what_is_impossible(tmp_path: Path) -> None:
    content = tiny_study(bogus=1, quorum=9)
    content["hospitals"] = {"kind": "column", "column": "c", "values": ["x", "x"], "typo": 1}
    content["run"]["ontology"]["attributes"]["split"] = ["a", "b"]
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    for part in (
        "bogus",
        "hospitals.typo",
        "quorum is 9",
        "value stands twice",
        "attributes.split",
    ):
        assert part in text


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    path.write_text(path.read_text() + "min_cell_count: 3\n")
    with pytest.raises(ConfigError, match="min_cell_count stands twice"):
        load_study(path)


def test_paths_name_keys_of_the_file_and_no_tag(tmp_path: Path) -> None:
    wrong = {"kind": "fractions", "val": 0.4, "test": 0.7}
    with pytest.raises(ConfigError, match=r"- split: val \+ test"):
        load_study(write_study(tmp_path, split=wrong))
    with pytest.raises(ConfigError, match="- source: unknown kind"):
        load_study(write_study(tmp_path, source={"kind": "s3"}))


@pytest.mark.parametrize(
    ("held_out", "told"),
    [
        (["c"], "'c' is not a hospital of this study: a, b, d"),
        (["a", "a"], "a hospital stands twice"),
        (["a", "b"], "leaves 1 hospitals"),
    ],
)
def test_held_out_hospitals_that_cannot_be_are_refused(
    tmp_path: Path, held_out: list[str], told: str
) -> None:
    sites = [{"name": name, "where": {"scanner": [name]}} for name in "abd"]
    rule = {"kind": "explicit", "sites": sites}
    found = problems(tmp_path, folder_study(hospitals=rule, held_out=held_out))
    assert any(line.startswith("held_out") and told in line for line in found), found


def test_held_out_hospitals_do_not_count_as_taking_part(tmp_path: Path) -> None:
    rule = {"kind": "column", "column": "hospital", "values": ["north", "south", "west"]}
    study = load_study(write_study(tmp_path, hospitals=rule, held_out=["west"]))
    assert expected_sites(study) == 2
    found = problems(tmp_path, tiny_study(hospitals=rule, held_out=["west"], quorum=3))
    assert any("quorum is 3 of 2" in line for line in found)


def test_settings_keep_the_order_of_the_file(tmp_path: Path) -> None:
    content = tiny_study()
    content["run"]["ontology"]["attributes"] = {"view": ["AP", "PA"], "age": ["old", "young"]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    study = load_study(path, {"run.rounds": "3"})
    assert list(study.run.ontology.attributes) == ["view", "age"]
