"""The texts that people start from load as they are, whatever the names in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.config import LimitsConfig, load_site_config
from mfm_core.config import OntologyConfig, load_yaml
from server.hosting import HostingConfig
from server.templates import LIMITS, RUN, consortium_text, site_text
from strategies.config import RunConfig
from strategies.onboarding import Kit


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def kit(site: str) -> Kit:
    return Kit(
        consortium="three",
        address="fl.example.org:8443",
        site=site,
        run_hash="0" * 64,
        bundle_hash="1" * 64,
        receipt_key="2" * 64,
    )


def test_the_run_loads(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, RUN), RunConfig).ontology.classes == (
        "No Finding",
        "Finding",
    )


@pytest.mark.parametrize("name", ["North Sea", "yes", "1e3", "no", "0x10", "a-b.c"])
@pytest.mark.parametrize("address", ["fl.example.org:8443", "10.0.0.7:8000", "[2001:db8::1]:8443"])
def test_consortium_yaml_says_what_it_was_told(tmp_path: Path, name: str, address: str) -> None:
    found = load_yaml(written(tmp_path, consortium_text(name, address)), HostingConfig)
    assert (found.name, found.address) == (name, address)
    assert found.listen == f"0.0.0.0:{address.rpartition(':')[2]}"
    assert (found.quorum, found.deadline_s, found.grace_s) == (None, None, None)


def test_every_setting_is_shown(tmp_path: Path) -> None:
    text = consortium_text("c", "fl.example.org:8443")
    assert [name for name in HostingConfig.model_fields if f"{name}:" not in text] == ["poll_s"]
    for commented in ("quorum", "deadline_s", "grace_s"):
        text = text.replace(f"# {commented}:", f"{commented}:")
    found = load_yaml(written(tmp_path, text), HostingConfig)
    assert (found.quorum, found.deadline_s, found.grace_s) == (2, 3600, 600)


@pytest.mark.parametrize(
    "ontology",
    [
        {"classes": ["a", "b"]},
        {"classes": ["yes", "no", "null", "1"], "attributes": {"view": ["AP", "PA"]}},
        {"classes": ["a: b", "c #d", "'e'", '"f"', "*", "- g", "größer", "x" * 64]},
        {
            "classes": ["a", "b"],
            "attributes": {"sex": ["F", "M"], "on": ["off", "1.0"], "age": ["<18", "18-60", ">60"]},
        },
    ],
)
def test_a_site_file_maps_every_word_to_itself(tmp_path: Path, ontology: dict[str, object]) -> None:
    words = OntologyConfig.model_validate(ontology)
    run = RunConfig.model_validate({"name": "r", "ontology": words})
    found = load_site_config(written(tmp_path, site_text(kit("1e3"), run)))
    assert found.name == "1e3"
    assert found.data.label_mapping == {label: label for label in words.classes}
    assert found.data.columns.attributes == {name: name for name in words.attributes}
    for name, values in words.attributes.items():
        assert found.data.attribute_mapping[name] == {**{v: v for v in values}, "*": None}


def test_every_limit_of_a_site_is_shown_at_its_default(tmp_path: Path) -> None:
    run = RunConfig.model_validate({"name": "r", "ontology": {"classes": ["a", "b"]}})
    text = site_text(kit("n"), run)
    assert LIMITS in text
    names = [n for n in LimitsConfig.model_fields if not n.startswith("accepted_")]
    assert [name for name in names if f"  {name}:" not in LIMITS.replace("# ", "")] == []
    assert load_site_config(written(tmp_path, text)).limits == LimitsConfig(
        accepted_runs=("0" * 64,), accepted_bundles=("1" * 64,)
    )
    opened = re.sub("^  # ", "  ", text, flags=re.MULTILINE)
    found = load_site_config(written(tmp_path, opened)).limits
    assert found.hours == "18:00-06:00" and found.max_memory_gib == 8
    assert found.allowed_kinds == LimitsConfig.model_fields["allowed_kinds"].default


def test_a_site_file_for_tasks_asks_for_data_sets_and_no_table(tmp_path: Path) -> None:
    task = {"target": "BINARY_CLASSIFICATION", "labels": ["absent", "present"]}
    run = RunConfig.model_validate({"name": "r", "ontology": {"tasks": {"chest/finding": task}}})
    found = load_site_config(written(tmp_path, site_text(kit("north"), run))).data
    assert found.mimeta == () and found.manifest is None and not found.label_mapping
