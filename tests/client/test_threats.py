"""The evidence pack says of threats what SECURITY.md says, and nothing else."""

from __future__ import annotations

import pytest

from client.threats import FILE, read_threats, read_trust, tables_of
from tests.house.sources import ROOT

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_security_md() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text == tables_of(SECURITY), "run `make docs`, which copies them from SECURITY.md"


def test_every_threat_is_read_with_all_that_is_open() -> None:
    threats, table = read_threats(), SECURITY.partition("## Threats, and where we stand")[2]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(threats) == len(lines) >= 15
    assert len(read_trust()) == 4
    for (threat, answer, still_open), line in zip(threats, lines, strict=True):
        bare = line.replace("**", "").replace("`", "")
        assert threat and threat in bare and answer in bare and still_open in bare
        assert bool(still_open) == (line.strip("|").split(" | ")[-1].strip(" |") != "")
    assert any("no differential privacy" in row[2] or "privacy" in row[2] for row in threats)


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="Who is trusted"):
        tables_of("# Security\n")
