"""The command `privacy` measures phantoms, or real films where it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulation import privacy_real, privacy_study
from simulation.commands_privacy import privacy
from simulation.privacy_study import StudySize


def test_real_films_take_the_place_of_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(privacy_real, "print_real", lambda *told, **more: seen.append((told, more)))
    monkeypatch.setattr(
        privacy_study, "run_privacy", lambda *told, **more: seen.append((told, more))
    )
    privacy(real=Path("films"), seed=2, as_json=True)
    privacy(patients=200, directions=8)
    assert seen[0] == ((Path("films"), 2), {"as_json": True})
    assert seen[1] == ((StudySize(patients=200, directions=8), 0), {"as_json": False})
