"""The demonstration of the leak audit: its settings are what they say, and its table reads."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from mfm_core.errors import ConfigError
from server.app import run_federation
from simulation import leaks
from simulation.config import load_study
from simulation.leaks import (
    SETTINGS,
    STUDY,
    audit_largest_site,
    chosen_settings,
    lines_of,
    run_leaks,
)
from simulation.progress import SilentDisplay
from simulation.study import Order
from tests.mfm_core.leak_record import record
from tests.server.hospitals import consortium, lay_out, make_grid, write_hospital


def test_the_settings_differ_as_they_say():
    studies = {name: load_study(STUDY, changes) for name, changes in SETTINGS.items()}
    assert studies["private"].run.privacy.private
    assert not studies["overfitted"].run.privacy.private
    assert studies["overfitted"].run.learning.augmentation.rotation_deg == 0
    assert studies["ordinary"].run.statistics.refit_head
    assert len({study.run.name for study in studies.values()}) == len(SETTINGS)
    ordinary, private = studies["ordinary"].run, studies["private"].run
    assert ordinary.learning == private.learning and ordinary.rounds == private.rounds
    many, protected = studies["ordinary, many"], studies["private, many"]
    assert many.run.learning == ordinary.learning and many.source == protected.source
    assert protected.run.secure_sum.enabled and protected.run.privacy.atlas.private
    assert protected.run.privacy.trainable == "head" and protected.public is not None


def test_the_table_holds_every_attack_and_what_was_not_done():
    run = {"macro_auc": 0.9, "reconstruction_ssim": 0.8}
    short = {**record(epsilon=None, nearest_p=None), "run": run}
    del short["canaries"], short["inversion"]
    short["attacks"] = short["attacks"][:1]
    lines = lines_of({"one": {**record(), "run": run}, "other": short})
    text = "\n".join(lines)
    assert lines[0] == "| | one (200 + 90) | other (200 + 90) |"
    assert "0.610 (0.560-0.660); 0.030; bound 0.700, 0.100; leaks" in text
    assert "formula 0.800; open | not done |" in text
    assert "head 1.50 (chance 1.30, most 5.00) | not done |" in text
    assert "| epsilon | 4.20 at 1e-06 | none |" in text


def test_a_site_of_each_run_is_audited(tmp_path, monkeypatch):
    folder = lay_out(tmp_path / "run")
    run_federation(make_grid(folder), consortium(folder, "finished"), resume=False)
    shutil.copy(next((folder / "finished").rglob("server.json")), folder / "server.json")
    monkeypatch.setattr(Order, "folder", property(lambda order: folder))
    results = json.loads((folder / "server.json").read_text())
    monkeypatch.setattr(leaks, "finished_results", lambda order: results)
    said: list[str] = []
    found = run_leaks(tmp_path, SilentDisplay(), 0.0, {}, said.append)
    assert list(found) == [text.partition(":")[0] for text in said] == list(SETTINGS)
    for each in found.values():
        assert each["final_hash"] == results["final_hash"] and each["site"] == "north"
        assert each["run"]["macro_auc"] == results["macro_auc"]
        assert not any("the agreed run is not here" in text for text in each["missing"])
    assert "covariance of the atlas" in "\n".join(lines_of(found))


def test_the_largest_hospital_is_audited_and_the_first_of_equals(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "audit_leaks", lambda asked: SimpleNamespace(content=asked.config))
    folder = lay_out(tmp_path)
    assert "name: north" in audit_largest_site(folder, 0.0).read_text()
    shutil.rmtree(folder / "images" / "south")
    write_hospital(folder / "images" / "south", seed=1, images=60)
    assert "name: south" in audit_largest_site(folder, 0.0).read_text()


def test_settings_are_chosen_by_name():
    assert list(chosen_settings(None)) == list(SETTINGS)
    assert list(chosen_settings(["private, many", "overfitted"])) == ["overfitted", "private, many"]
    with pytest.raises(ConfigError, match="no setting 'secret'; there are 'overfitted'"):
        chosen_settings(["secret"])
