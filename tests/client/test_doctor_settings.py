"""Names, hashes, limits, keys and code that do not fit each other are found before a run does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from client.config import LimitsConfig
from client.doctor_settings import (
    check_code,
    check_keys,
    check_limits,
    check_pins,
    check_settings,
    message_bytes,
    read_settings,
)
from client.finding import Finding
from client.folder import Folder
from mfm_core.config import dump_yaml
from server.kits import agreed_of
from strategies.answers import answer_of, latent_size
from strategies.plan import KINDS
from tests.client.hospital_folder import make_hospital, make_kit, settings
from tests.server.hospitals import RUN


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


def look(folder: Folder) -> list[Finding]:
    found, problems = read_settings(folder)
    return [*problems, *check_settings(folder, found)]


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


def test_a_fresh_hospital_is_in_order(folder: Folder) -> None:
    assert levels(look(folder)) == {"ok"}
    assert check_keys(folder).level == "ok"


@pytest.mark.parametrize(
    ("limits", "level", "words"),
    [
        ({"accepted_runs": ["f" * 64]}, "fail", "not in limits.accepted_runs"),
        ({"accepted_runs": ["any"]}, "warn", "every run is answered"),
        ({"allowed_kinds": ["hello", "train"]}, "warn", "leaves out"),
        ({"max_message_mib": 0.01}, "fail", "largest message"),
        ({"manual": True}, "warn", "wait for a person"),
        ({"hours": "18:00-06:00"}, "warn", "works 18:00-06:00 only"),
    ],
)
def test_limits_that_would_refuse_the_run_are_told(
    folder: Folder, limits: dict[str, object], level: str, words: str
) -> None:
    dump_yaml(settings(**limits), folder.site_file)
    told = [finding for finding in look(folder) if finding.level != "ok"]
    assert [finding.level for finding in told] == [level]
    assert words in told[0].text and told[0].advice


def test_another_name_and_another_run_are_told(folder: Folder) -> None:
    dump_yaml(settings("south"), folder.site_file)
    assert any("different sites" in finding.text for finding in look(folder))
    other = RUN.model_copy(update={"rounds": 3})
    dump_yaml(other, folder.root / "mine.yaml")
    changed = settings().model_copy(update={"run": Path("mine.yaml")})
    dump_yaml(changed, folder.site_file)
    assert any("the kit's" in finding.text for finding in look(folder))


def test_each_unreadable_file_is_told_and_the_rest_still_looked_at(folder: Folder) -> None:
    (folder.kit / "kit.json").write_text("{")
    folder.site_file.write_text("name: north\nwhat: 1\n")
    findings = look(folder)
    assert len(findings) == 2 and levels(findings) == {"fail"}
    assert any("what" in detail for finding in findings for detail in finding.details)


def test_a_damaged_key_fails(folder: Folder) -> None:
    folder.key.write_text("damaged")
    assert check_keys(folder).level == "fail"


def test_the_bundle_is_built_from_the_installed_code_and_compared(folder: Folder) -> None:
    found, _ = read_settings(folder)
    assert found.kit is not None and check_code(found.kit, RUN).level == "fail"
    right = found.kit.model_copy(update={"bundle_hash": agreed_of(RUN).bundle_hash})
    assert check_code(right, RUN).level == "ok"
    assert check_code(right, RUN.model_copy(update={"rounds": 3})).level == "fail"
    assert check_code(None, RUN).level == "skip"


def test_every_limit_in_force_is_shown_and_what_it_will_refuse() -> None:
    shown = {f.text.partition(":")[0] for f in check_limits(settings(), RUN) if f.level == "ok"}
    assert {f"limits.{name}" for name in LimitsConfig.model_fields} <= shown
    narrow = settings(allowed_arrays={"latent_sums": ["class.*"]}, max_numbers={"train": 3})
    (found,) = [f for f in check_limits(narrow, RUN) if "allowed_arrays or" in f.text]
    assert found.level == "warn" and len(found.details) == 2
    assert "second_moment" in found.details[1] and "limits.max_numbers" in found.details[0]


def test_pinned_bundle_and_receipt_key_are_compared_with_the_kit(folder: Folder) -> None:
    kit, config = read_settings(folder)[0].kit, settings(accepted_bundles=["f" * 64])
    assert kit is not None
    config = config.model_copy(update={"receipt_key": None})
    assert [f.level for f in check_pins(kit, config)] == ["fail", "warn"]
    right = settings(accepted_bundles=[kit.bundle_hash])
    assert [f.level for f in check_pins(kit, right)] == ["ok"]
    (other,) = check_pins(kit, right.model_copy(update={"receipt_key": "0" * 64}))
    assert other.level == "warn" and "shown as wrong" in other.text


def test_the_size_of_a_message_follows_from_the_run_alone() -> None:
    for kind in KINDS:
        total = answer_of(RUN, kind).total or ()
        numbers = 0
        for _, shape in total:
            size = 1
            for side in shape:
                size *= side
            numbers += size
        assert message_bytes(RUN, kind) >= 8 * numbers
    assert not [f for f in check_limits(settings(), RUN) if f.level == "fail"]


def test_limits_are_held_against_what_learns_and_not_the_whole_model() -> None:
    figures = sum(math.prod(shape) for _, shape in answer_of(RUN, "train").total or ())
    head_alone = len(RUN.ontology.classes) * (latent_size(RUN) + 1)
    config = settings(max_numbers={"train": figures + head_alone})
    assert [f for f in check_limits(config, RUN) if "allowed_arrays or" in f.text]
    learning = RUN.learning.model_copy(update={"trainable": "head"})
    head = RUN.model_copy(update={"learning": learning})
    assert not [f for f in check_limits(config, head) if "allowed_arrays or" in f.text]
