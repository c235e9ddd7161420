"""The Helm chart: values fit their schema, templates read what there is, the door is narrow."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.house.sources import ROOT

CHART = ROOT / "deploy" / "helm" / "mfm"
TEMPLATES = sorted((CHART / "templates").iterdir())
HOSPITAL = {
    "client": {
        "enabled": True,
        "coordinator": {"cidrs": ["203.0.113.10/32"]},
        "images": {"claimName": "images"},
    }
}


def values(changed: dict[str, Any] | None = None) -> dict[str, Any]:
    def merge(into: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        for key, value in other.items():
            deeper = isinstance(value, dict) and isinstance(into.get(key), dict)
            into[key] = merge(into[key], value) if deeper else copy.deepcopy(value)
        return into

    return merge(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), changed or {})


def refusals(found: dict[str, Any]) -> list[str]:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(found)]


def test_the_values_fit_their_schema_and_wrong_ones_do_not() -> None:
    assert refusals(values()) == [] == refusals(values(HOSPITAL))
    assert refusals(values({"client": {"enabled": True}})), "a client that may call nobody"
    assert refusals(values({"server": {"image": {"tag": "latest"}}}))
    assert refusals(values({"server": {"prot": 1}}))


def test_every_value_that_a_template_reads_is_there() -> None:
    found, missing = values(HOSPITAL), []
    for path in TEMPLATES:
        for name in re.findall(r"\.Values((?:\.\w+)+)", path.read_text("utf-8")):
            place: Any = found
            for key in name.strip(".").split("."):
                place = place.get(key, KeyError) if isinstance(place, dict) else KeyError
            missing += [f"{path.name}: {name}"] if place is KeyError else []
    assert not missing


def test_braces_and_blocks_are_balanced() -> None:
    for path in TEMPLATES:
        text = path.read_text("utf-8")
        assert text.count("{{") == text.count("}}"), path.name
        opened = re.findall(r"\{\{-? (?:if|with|range|define)\b", text)
        assert len(opened) == len(re.findall(r"\{\{-? end\b", text)), path.name


def test_the_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{chart["appVersion"]}"' in project
    tags = {values()[part]["image"]["tag"] for part in ("server", "client")}
    assert tags == {chart["appVersion"]}


def test_only_the_gateway_comes_in_and_a_node_only_goes_out() -> None:
    server = (CHART / "templates" / "server-network.yaml").read_text("utf-8")
    client = (CHART / "templates" / "client-network.yaml").read_text("utf-8")
    assert "egress: []" in server and server.count("port:") == 1
    assert "ingress: []" in client and "coordinator.cidrs" in client
    for text in (server, client):
        assert "policyTypes: [Ingress, Egress]" in text


@pytest.mark.parametrize("role", ["server", "client"])
def test_pods_are_not_root_and_not_writable(role: str) -> None:
    text = (CHART / "templates" / f"{role}.yaml").read_text("utf-8")
    names = (CHART / "templates" / "_names.tpl").read_text("utf-8")
    assert 'include "mfm.podSecurity"' in text and 'include "mfm.containerSecurity"' in text
    for line in ("runAsNonRoot: true", "readOnlyRootFilesystem: true", "drop: [ALL]"):
        assert line in names
    assert "automountServiceAccountToken: false" in text and "livenessProbe" in text


@pytest.mark.parametrize("command", [["lint"], ["template"]], ids=["lint", "template"])
def test_helm_takes_it(command: list[str], tmp_path: Path) -> None:
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed; the chart was checked by its parts only")
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump({**HOSPITAL, "server": {"enabled": True}}), "utf-8")
    words = ["helm", *command, str(CHART), "--values", str(both)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
