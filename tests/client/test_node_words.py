from pathlib import Path

import numpy as np
import pytest

from client.config import load_site_config
from client.folder import Folder
from client.node import NodeStatus
from client.node_words import Status, read_status, text_of, text_of_node
from client.outbox import Outbox
from client.site import LEDGER
from mfm_core.errors import ConfigError
from mfm_core.sums import Sum
from server.certificates import issue_server_certificate
from strategies import wire
from strategies.answers import answer_of
from tests.client.hospital_folder import make_hospital, make_kit
from tests.client.tls_server import gateway
from tests.server.hospitals import RUN


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"), images=4)


def release(folder: Folder, times: int) -> Path:
    config = load_site_config(folder.site_file)
    outbox = Outbox(config.state_folder / LEDGER, config.limits)
    for number in range(times):
        header = wire.Header("hello", number, "0" * 64, "0" * 64, site="north")
        payload = wire.Payload(total=Sum({"images": np.zeros(3)}))
        outbox.release(header, payload, (), answer_of(RUN, "hello"))
    return config.state_folder / LEDGER


def test_the_last_messages_are_shown_and_a_broken_ledger_is_told(folder: Folder) -> None:
    ledger = release(folder, 4)
    found = read_status(folder, 2, offline=True)
    assert [line["round"] for line in found.messages] == [2, 3] and found.ledger_problems == ()
    assert read_status(folder, 0, offline=True).messages == ()
    ledger.write_bytes(ledger.read_bytes().replace(b'"round": 1', b'"round": 9'))
    assert "LEDGER" in text_of(read_status(folder, offline=True))
    ledger.write_text("no json\n")
    assert read_status(folder, offline=True).ledger_problems


def test_days_left_of_both_certificates(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit")
    issue_server_certificate(tmp_path / "kit-authority", ["127.0.0.1"], days=10)
    with gateway(tmp_path / "kit-authority") as port:
        make_kit(kit, address=f"127.0.0.1:{port}")
        folder = make_hospital(tmp_path / "north", kit, images=4)
        found = read_status(folder)
        assert "server" not in read_status(folder, offline=True).days_left
    assert 9 < found.days_left["server"] < 10.1 and found.days_left["authority"] > 3640
    assert "10 days left  RENEW" in text_of(found) and "3650 days left\n" in text_of(found)
    assert found.to_dict()["node"]["running"] is False


def test_a_damaged_authority_is_shown_as_unknown_and_damaged_settings_refused(
    folder: Folder,
) -> None:
    folder.authority.write_text("damaged")
    assert "unknown" in text_of(read_status(folder, offline=True))
    folder.site_file.write_text("name: [")
    with pytest.raises(ConfigError):
        read_status(folder, offline=True)


def test_how_a_node_is_reads_as_a_sentence() -> None:
    row = {"name": "supernode", "pid": 7, "state": "waiting", "reason": "refused", "starts": 3}
    waiting = NodeStatus(True, "2026-01-01", False, ({**row, "alive": False},))
    assert "NOT connected" in text_of_node(waiting) and "refused" in text_of_node(waiting)
    assert "is connected" in text_of_node(NodeStatus(True, "2026-01-01", True, ()))
    stopped = NodeStatus(False, "", False, ())
    assert "does not run" in text_of_node(stopped)
    assert "none" in text_of(Status("n", "c", "a:1", stopped, (), (), {}))
