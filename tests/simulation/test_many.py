"""Which files hold many studies, and that both kinds are checked by one call."""

from __future__ import annotations

from pathlib import Path

from simulation.many import check_many, is_many
from tests.simulation.samples import write_study
from tests.simulation.tables import small_table


def test_a_table_holds_many_and_a_study_one(tmp_path: Path) -> None:
    small_table(tmp_path)
    assert is_many(tmp_path / "table.yaml") and not is_many(write_study(tmp_path))


def test_the_check_counts_studies_and_shows_hospitals(tmp_path: Path) -> None:
    small_table(tmp_path)
    checked = check_many(tmp_path / "table.yaml", tmp_path / "data", {})
    assert checked.content["table"] == "small" and checked.content["cells"] == 3
    assert {study.run.name for study, _ in checked.cells} == set(checked.content["checked"])
