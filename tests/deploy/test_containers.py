"""Container and compose files: pinned, not root, nothing secret, read-only, and to their rules."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tests.house.sources import ROOT

PLACE = ROOT / "deploy" / "containers"
DOCKERFILE = PLACE / "Dockerfile"
COMPOSE = ("compose.server.yaml", "compose.client.yaml")
SECRET = re.compile(r"(?i)password|token|secret|\.key|\.pem|keys/")
PINNED = re.compile(r"[a-z/-]+:v?\d+\.\d+\.\d+(-[a-z-]+)?")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def compose(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((PLACE / name).read_text("utf-8")))


def outside(pattern_file: Path, name: str) -> bool:
    """Tell whether a path of the repository stays out of the build, by the last matching line."""
    ignored = False
    for line in pattern_file.read_text("utf-8").splitlines():
        rule = line.removeprefix("!").removeprefix("**/")
        hits = any(fnmatch.fnmatch(part, rule) for part in [name, *Path(name).parts])
        if line and not line.startswith("#") and hits:
            ignored = not line.startswith("!")
    return ignored


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")  # the extra `dev` installs it
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bases_are_pinned_and_no_stage_that_runs_is_root() -> None:
    stages: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert base in stages or PINNED.fullmatch(base), base
            stages[name] = []
        else:
            stages[name].append((word, rest))
    for role in ("server", "client"):
        users = [rest for word, rest in stages[role] if word == "USER"]
        assert users[-1:] == ["10001:10001"], role
        last = {word: rest for word, rest in stages[role]}
        assert json.loads(last["CMD"])[:2] == [f"mfm-{role}", "start"]
        assert "HEALTHCHECK" in last


def test_only_named_sources_that_exist_come_in_and_none_is_secret() -> None:
    words = {word for word, _ in instructions()}
    assert "ADD" not in words and "ARG" not in words
    sources = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {"constraints.txt", "mfm_core", "client", "server"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and not SECRET.search(source), source
        assert not outside(ROOT / ".dockerignore", source), source
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert installs and all("-c constraints.txt" in rest for rest in installs)


@pytest.mark.parametrize(
    "name", [".git", "runs/a", "dist/x", ".venv", "tests", "shared", "client/site.key"]
)
def test_everything_else_stays_outside_the_build(name: str) -> None:
    assert outside(ROOT / ".dockerignore", name)


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name: str) -> None:
    text = re.sub(r"\$\{[^}]*\}", "./somewhere", (PLACE / name).read_text("utf-8"))
    read = PyCompose.from_yaml(text)
    read.validate()
    assert len(read.service_names()) == 3


@pytest.mark.parametrize("name", COMPOSE)
def test_every_service_is_read_only_without_capabilities_and_bounded(name: str) -> None:
    for service, part in compose(name)["services"].items():
        assert part["read_only"] is True and part["cap_drop"] == ["ALL"], service
        assert part["security_opt"] == ["no-new-privileges:true"] and part["mem_limit"], service
        assert "privileged" not in part and PINNED.fullmatch(part["image"]), service
        for mount in part["volumes"]:
            source = str(mount["source"])
            if source.startswith("."):
                assert (PLACE / source).exists(), source
                assert mount["read_only"] is True, source


def test_the_hospital_opens_no_port_and_its_images_are_read_only() -> None:
    client = compose("compose.client.yaml")["services"]["client"]
    assert "ports" not in client
    mounts = {mount["target"]: mount for mount in client["volumes"]}
    assert mounts["/srv/images"]["read_only"] is True
    assert compose("compose.server.yaml")["services"]["server"]["ports"] == ["8443:8443"]


@pytest.mark.parametrize("role", ["server", "client"])
def test_prometheus_watches_the_port_that_the_settings_suggest(role: str) -> None:
    from server.templates import consortium_text

    read = yaml.safe_load((PLACE / f"prometheus.{role}.yml").read_text("utf-8"))
    (target,) = read["scrape_configs"][0]["static_configs"][0]["targets"]
    settings = consortium_text("Any", "fl.example.org:8443")
    if role == "server" and "metrics" in settings:
        assert f"metrics: {target}" in settings
    watched = compose(f"compose.{role}.yaml")["services"]
    assert watched["prometheus"]["network_mode"] == f"service:{role}"
    assert watched["grafana"]["environment"]["MFM_WATCHED"] == role
