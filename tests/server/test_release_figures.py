"""What a release tells of a run, and that it names no site unless asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.finished_run import read_finished
from server.release_figures import figures_of, labels_of, rounds_of
from strategies.config import RunConfig
from tests.client.central_hospital import central_run
from tests.server.finished import finished_run
from tests.server.hospitals import RUN

LINES = [
    {"phase": "hello", "round": 0, "seconds": 1.0, "sites": {"north": "ok", "south": "ok"}},
    {"phase": "train", "round": 1, "seconds": 2.0, "sites": {"north": "ok", "south": "no-reply"},
     "bytes": {"north": 10}, "site_images": {"north": 24}, "ledgers": {"north": "ab"},
     "of_site": {"north": {"loss": {}}}, "loss": {"loss": 1.0}},
]  # fmt: skip


def test_no_name_of_a_site_stands_in_the_figures_or_the_rounds(tmp_path: Path) -> None:
    found = read_finished(finished_run(tmp_path))
    assert "north" in json.dumps(found.results)
    labels = labels_of(found.lines, named=False)
    assert sorted(labels.values()) == ["site 1", "site 2"]
    figures = figures_of(found.run, found.results, found.lines, labels, None)
    text = json.dumps([figures, rounds_of(found.lines, labels)])
    assert "north" not in text and "south" not in text and "ledgers" not in text
    biases = [row for row in figures["audit"]["biases"] if row["attribute"] == "site"]
    assert biases and {row["value"] for row in biases} <= set(labels.values())
    assert figures["status"] == "complete" and figures["missed"] == {}
    assert set(figures["per_site"]) == set(figures["training_images"]) == {"site 1", "site 2"}
    assert set(figures["per_site"]["site 1"]) == {"macro_auc", "accuracy", "ssim"}
    assert "per_site" not in figures["audit"]


def test_names_stay_where_they_are_asked_for() -> None:
    assert labels_of(LINES, named=True) == {"north": "north", "south": "south"}


def test_the_numbers_tell_nothing_of_the_names() -> None:
    lines = [{"sites": {f"s{n}": "ok" for n in range(8)}}]
    drawn = {tuple(labels_of(lines, named=False).values()) for _ in range(20)}
    assert len(drawn) > 1


def of(results: dict[str, Any], run: RunConfig = RUN) -> dict[str, Any]:
    return figures_of(run, results, LINES, labels_of(LINES, named=True), None)


def test_the_ledger_decides_whether_a_run_is_complete() -> None:
    figures = of({"status": "complete"})
    assert figures["status"] == "degraded" and figures["missed"] == {"south": 1}
    assert figures["training_images"] == {"north": 24}


def test_only_the_largest_epsilon_is_told_and_only_when_all_sites_report() -> None:
    def largest(**reported: object) -> float | None:
        found: float | None = of({"spent": {"per_site": reported}})["privacy"]["largest_epsilon"]
        return found

    assert largest(north={"epsilon": 3.0}, south={"epsilon": 4.5}) == 4.5
    assert largest(north={"epsilon": 3.0}, south={}) is None
    assert largest(north={"epsilon": 3.0}) is None, "south was asked to train and said nothing"
    assert largest() is None and of({})["privacy"]["largest_epsilon"] is None


def test_a_recorded_attribute_called_site_keeps_its_values() -> None:
    ontology = {**RUN.ontology.model_dump(), "attributes": {"site": ["ward", "theatre"]}}
    run = RunConfig.model_validate({**RUN.model_dump(), "ontology": ontology, "mitigation": {}})
    row = {"attribute": "site", "value": "ward", "against": "theatre", "sentence": "Seen."}
    assert of({"audit": {"pooled": {}, "biases": [row]}}, run)["audit"]["biases"] == [row]


def test_a_round_is_summed_up() -> None:
    rows = rounds_of(LINES, {"north": "site 2", "south": "site 1"})
    assert rows[1] == {
        "phase": "train", "round": 1, "seconds": 2.0, "loss": {"loss": 1.0}, "bytes": 10,
        "sites": {"site 1": "no-reply", "site 2": "ok"},
    }  # fmt: skip


def test_under_central_dp_the_server_knows_epsilon_of_a_patient() -> None:
    run = central_run()
    spent = {"epsilon_site": 1.1, "epsilon_patient": 2.3, "words": "so and so"}
    told = of({"central": spent}, run)["privacy"]
    assert told["largest_epsilon"] == 2.3 and told["spent"] == spent
    assert of({"central": {**spent, "epsilon_patient": None}}, run)["privacy"][
        "largest_epsilon"] is None  # fmt: skip
