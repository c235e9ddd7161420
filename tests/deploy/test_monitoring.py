"""Dashboards and alerts ask for figures that the code exports, with the labels they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client.metrics import ClientFigures
from server.metrics import ServerFigures
from tests.client.hospital_folder import make_hospital, make_kit
from tests.client.test_metrics import fill
from tests.server.test_metrics import host, line, write_run  # noqa: F401

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
NAME = re.compile(r"\bmfm_[a-z_]+\b")
MATCHED = re.compile(r"\b(mfm_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
WORDS = {"increase", "rate", "delta", "sum", "by"}


@pytest.fixture
def exposed(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Everything that a coordinator and a hospital with one run show, as Prometheus reads it."""
    coordinator = request.getfixturevalue("host")
    lines = [line("train", 5.0, north="ok", south="rejected:nan")]
    write_run(coordinator, "new", lines)
    folder = make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)
    (tmp_path / "state").mkdir()
    fill(folder, tmp_path / "state")
    text = ""
    for figures in (ServerFigures(coordinator), ClientFigures(folder, tmp_path / "state")):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(figures.collector)
        text += generate_latest(registry).decode()
    return text


@pytest.fixture
def labels(exposed: str) -> dict[str, set[str]]:
    """Name of every figure to the labels it has."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
    }


def read_rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str, str]]:
    """Yield place, expression and the text that names labels of its result."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"], target["legendFormat"]
    for rule in read_rules():
        yield f"alert {rule['alert']}", rule["expr"], rule["annotations"]["summary"]


def test_every_expression_asks_for_what_is_exported(labels: dict[str, set[str]]) -> None:
    wrong = []
    for place, text, shown in expressions():
        asked = set(NAME.findall(text))
        wrong += [f"{place}: no figure {name}" for name in asked - labels.keys()]
        matched = {
            (name, part.split("=")[0].strip(" !~"))
            for name, inside in MATCHED.findall(text)
            for part in inside.split(",")
        }
        grouped = {part.strip() for inside in GROUPED.findall(text) for part in inside.split(",")}
        named = {(name, label) for name in asked for label in grouped | set(SHOWN.findall(shown))}
        wrong += [
            f"{place}: {name} has no label {label}"
            for name, label in matched | named
            if label not in labels.get(name, {label})
        ]
        bare = re.sub(r'"[^"]*"|\[\d+[mhd]\]', "", text)
        other = set(re.findall(r"\b[a-z_]+\b", bare)) - asked - WORDS - grouped
        other -= {label for _, label in matched}
        wrong += [f"{place}: {asked or 'nothing asked'} {other}"] if other or not asked else []
    assert not wrong, "\n".join(wrong)


def test_every_figure_has_a_panel(labels: dict[str, set[str]]) -> None:
    text = " ".join(text for place, text, _ in expressions() if not place.startswith("alert"))
    assert set(labels) - set(NAME.findall(text)) == {"mfm_server_ready", "mfm_server_run_active"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    """What Grafana's importer needs: a uid, a schema, a data source to choose, panels in a grid."""
    board = json.loads(path.read_text("utf-8"))
    assert board["uid"] == path.stem and board["title"] and board["schemaVersion"] >= 36
    (source,) = board["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in {"stat", "timeseries"} and panel["title"] and panel["targets"]
        assert all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells


def test_alerts_say_what_to_do_and_how_bad_it_is() -> None:
    rules = read_rules()
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    assert {"MfmSiteMissing", "MfmRunStalled", "MfmLedgerNotWhole"} <= set(names)
    assert {rule["labels"]["severity"] for rule in rules} == {"warning", "critical"}


def test_promtool_finds_nothing_wrong(exposed: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    folder = DEPLOY / "prometheus"
    for words in (["rules", "alerts.yml"], ["config", "prometheus.yml"]):
        done = subprocess.run(
            [tool, "check", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [tool, "check", "metrics"], input=exposed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
