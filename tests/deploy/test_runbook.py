"""Every command in the pages and files of deploy/ is one that the programs take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.commands import command_lines, refusal
from tests.house.sources import ROOT, tracked

DEPLOY = ROOT / "deploy"
PAGES = sorted(DEPLOY.rglob("*.md"))
SHOWN = {".md", ".yaml", ".service", ".txt", ""}
LINK = re.compile(r"\]\(([^)\s]*)\)")


def _files() -> list[Path]:
    return [path for path in tracked() if DEPLOY in path.parents and path.suffix in SHOWN]


def test_every_command_line_is_one_that_the_program_takes() -> None:
    lines = {(path, line) for path in _files() for line in command_lines(path)}
    assert len(lines) > 50
    wrong = [f"{path.relative_to(ROOT)}: {why}" for path, line in lines if (why := refusal(line))]
    assert not wrong, "\n".join(sorted(wrong))


def test_the_runbook_uses_every_command_that_changes_something() -> None:
    lines = [line.split() for line in command_lines(DEPLOY / "RUNBOOK.md")]
    used = {tuple(word for word in words[:3] if word.islower()) for words in lines}
    named = {" ".join(words) for words in used}
    for wanted in ("init", "check", "rotate", "site add", "site suspend", "site admit"):
        assert any(f"mfm-server {wanted}" in name for name in named), wanted
    for wanted in ("init", "join", "check", "stop", "ledger", "outbox approve", "outbox reject"):
        assert any(f"mfm-client {wanted}" in name for name in named), wanted


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("mfm-server site add FOLDER", "REQUEST"),
        ("mfm-server rotate FOLDER --hostname x", "--hostname"),
        ("mfm-client chek SITE", "chek"),
        ("mfm-client check SITE --part nothing", "nothing"),
    ],
)
def test_a_wrong_line_would_be_found(line: str, word: str) -> None:
    assert word in refusal(line)


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_leads_to_a_page_and_a_heading() -> None:
    wrong = []
    for page in PAGES:
        for target in LINK.findall(page.read_text("utf-8")):
            place, _, anchor = target.partition("#")
            found = (page.parent / place).resolve() if place else page
            if not found.exists() or (anchor and anchor not in _anchors(found)):
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_readme_keeps_the_places_that_other_commands_write() -> None:
    text = (DEPLOY / "README.md").read_text("utf-8")
    assert "<!-- survival: written by python -m tests.federation.survival -->" in text
    assert "\n## Survival\n" in text and "\n## Metrics\n" in text
