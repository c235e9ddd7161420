"""The demonstration of the leak audit: its settings are what they say, and its table reads."""

from __future__ import annotations

import pytest

from simulation.config import load_study
from simulation.leaks import SETTINGS, STUDY, lines_of, run_leaks
from simulation.progress import SilentDisplay
from tests.mfm_core.leak_record import record

QUICK = {
    "run.model": "{widths: [16], depths: [1], groups: 2, norm_channels: 8, latent_channels: 8, "
    "stem: 8}",
    "run.rounds": "2",
    "source.phantoms.hospitals": "[{name: north, patients: 60}, {name: valley, patients: 60}]",
}


def test_the_settings_differ_as_they_say():
    studies = {name: load_study(STUDY, changes) for name, changes in SETTINGS.items()}
    assert studies["private"].run.privacy.private
    assert not studies["overfitted"].run.privacy.private
    assert studies["overfitted"].run.learning.augmentation.rotation_deg == 0
    assert studies["ordinary"].run.statistics.refit_head
    assert len({study.run.name for study in studies.values()}) == 3
    ordinary, private = studies["ordinary"].run, studies["private"].run
    assert ordinary.learning == private.learning and ordinary.rounds == private.rounds


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


@pytest.mark.slow
def test_the_three_runs_are_audited(tmp_path, monkeypatch):
    for name, setting in list(SETTINGS.items()):
        changed = {k: v for k, v in setting.items() if k not in QUICK}
        monkeypatch.setitem(SETTINGS, name, changed)
    found = run_leaks(tmp_path, SilentDisplay(), 0.0, QUICK)
    assert set(found) == {"overfitted", "ordinary", "private"}
    assert found["private"]["epsilon"]["epsilon"] > 0
    for each in found.values():
        assert each["final_hash"] and len(each["attacks"]) >= 4
