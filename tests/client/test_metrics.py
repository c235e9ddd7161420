"""A hospital's figures: counts and times of its own folder, and nothing that names anybody."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from client.config import SiteConfig
from client.folder import Folder
from client.metrics import ClientFigures
from client.site import LEDGER
from strategies import chain
from strategies.processes import observe
from tests.client.hospital_folder import make_hospital, make_kit, settings


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


def scrape(figures: ClientFigures) -> dict[str, float]:
    return {
        " ".join([sample.name, *([",".join(sample.labels.values())] if sample.labels else [])]):
        sample.value
        for family in figures.collector.collect()
        for sample in family.samples
    }  # fmt: skip


def fill(folder: Folder, state: Path) -> None:
    """Leave what a running node leaves."""
    own = observe("supernode", os.getpid())
    assert own is not None
    folder.node.mkdir(parents=True, exist_ok=True)
    row = {**own.to_dict(), "state": "running", "reason": "", "starts": 2, "answers": True}
    log = folder.node / "supernode.log"
    log.write_text("SuperNode ID: 7\n")
    services = [{**row, "log": str(log), "log_from": 0}]
    content = {"supervisor": own.to_dict(), "started_at": "now", "services": services}
    (folder.node / "processes.json").write_text(json.dumps(content))
    found = {"answered": 5, "refused:limit-refusal": 2}
    told = {"outcomes": found, "seconds": 7.5, "last_at": 0.0, "confined": {"no network": False}}
    (folder.node / "messages.json").write_text(json.dumps(told))
    chain.append(state / LEDGER, {"bytes": 100, "kind": "hello"})
    chain.append(state / LEDGER, {"bytes": 23, "kind": "train"})
    (state / "held").mkdir()
    (state / "held" / "train-1-abc.json").write_text("{}")


def test_everything_is_read_from_the_folder(folder: Folder, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    fill(folder, state)
    figures = ClientFigures(folder, state)
    found = scrape(figures)
    assert found["mfm_client_connected"] == found["mfm_client_process_up supernode"] == 1.0
    assert found["mfm_client_process_restarts_total supernode"] == 1.0
    assert found["mfm_client_process_answers supernode"] == 1.0
    assert found["mfm_client_messages_total answered,"] == 5.0
    assert found["mfm_client_messages_total refused,limit-refusal"] == 2.0
    assert found["mfm_client_message_seconds_sum"] == 7.5
    assert found["mfm_client_message_seconds_count"] == 7.0
    assert found["mfm_client_sandbox_in_force no network"] == 0.0
    assert found["mfm_client_ledger_lines"] == 2.0 and found["mfm_client_ledger_whole"] == 1.0
    assert found["mfm_client_sent_bytes_total"] == 123.0
    assert found["mfm_client_held_messages"] == 1.0 and found["mfm_client_disk_free_bytes"] > 0
    assert found["mfm_client_certificate_left_seconds ca"] > 0
    assert not any(value for name, value in found.items() if "unreadable" in name)
    path = state / LEDGER
    path.write_text(path.read_text().replace('"bytes": 23', '"bytes": 24'))
    assert scrape(figures)["mfm_client_ledger_whole"] == 0.0, "an edited line shows"


def test_a_site_that_never_ran_gives_what_there_is(folder: Folder, tmp_path: Path) -> None:
    found = scrape(ClientFigures(folder, tmp_path / "none"))
    assert found["mfm_client_connected"] == 0.0 and found["mfm_client_ledger_lines"] == 0.0
    assert found["mfm_client_ledger_whole"] == 1.0 and "mfm_client_idle_seconds" not in found


def test_no_label_holds_a_name_of_the_hospital(folder: Folder, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    fill(folder, state)
    labels = {
        name: value
        for family in ClientFigures(folder, state).collector.collect()
        for sample in family.samples
        for name, value in sample.labels.items()
    }
    assert labels.keys() <= {"process", "outcome", "reason", "part", "certificate"}
    assert not [value for value in labels.values() if "north" in value or "/" in value]


def test_an_address_that_others_reach_is_refused() -> None:
    plain = settings().model_dump()
    assert SiteConfig.model_validate({**plain, "metrics": "127.0.0.1:9465"}).metrics
    for address in ("0.0.0.0:9465", "10.1.2.3:9465", "127.0.0.1", "fl.example.org:9465"):
        with pytest.raises(ValidationError, match=r"loopback|host:port"):
            SiteConfig.model_validate({**plain, "metrics": address})
