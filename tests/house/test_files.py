"""What is kept in the repository: no machine's paths, no registries, no foreign pictures."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.house.sources import ROOT, tracked

BINARY = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".gif", ".pdf", ".npz", ".npy"}
OWN_PICTURES: set[str] = set()
"""Pictures drawn by our own code from phantoms: path."""
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".j2", ".cfg", ".ini", ".json", ""}
MACHINE_PATH = re.compile(
    r"(?<![\w.~$}/:-])/(?:root|home/(?!hospital)\w+|work|Users/\w+|opt/py\w*|tmp/\w+)(?:/|\b)"
)
REGISTRY = re.compile(
    r"pypi\.org/simple|files\.pythonhosted|file://|index[-_]url|find[-_]links|download\.pytorch"
)
SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}")
HERE = Path(__file__).relative_to(ROOT)


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.relative_to(ROOT) != HERE:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY, SECRET], ids=["path", "url", "secret"])
def test_no_file_names_a_machine_a_registry_or_a_secret(pattern: re.Pattern[str]) -> None:
    wrong = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_patterns_find_what_they_are_for() -> None:
    assert MACHINE_PATH.search("see /" + "root/project/file.py")
    assert MACHINE_PATH.search('"/' + 'home/someone/data"')
    assert not MACHINE_PATH.search("a relative path/tmp-like/name and https://host/work/x")
    assert REGISTRY.search("--extra-index" + "-url https://example.org")


def test_pictures_are_our_own_and_nothing_is_large() -> None:
    pictures = {str(p.relative_to(ROOT)) for p in tracked() if p.suffix.lower() in BINARY}
    assert pictures <= OWN_PICTURES
    large = [path.relative_to(ROOT) for path in tracked() if path.stat().st_size > 1_000_000]
    assert not large


def test_constraints_hold_names_and_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [
        line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line)
    ] == []
    names = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    bare = {re.split(r"[\[<>=! ]", entry)[0].lower().replace("_", "-") for entry in wanted}
    assert bare - {"mfm-federated"} <= names


def test_ci_calls_the_same_command_as_people() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    commands = [
        line
        for line in script.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "exec make test </dev/null"
