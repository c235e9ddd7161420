"""A receipt is held against the site's own ledger before it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from client.receipts import FILE, read_receipts, take_receipts
from client.site import Site, close_sites, open_site
from mfm_core.config import dump_yaml
from mfm_core.sums import Sum
from strategies import chain, wire
from strategies.answers import answer_of
from strategies.receipts import RECEIPTS, Receipt
from tests.server.hospitals import RUN, site_config

KEY = Ed25519PrivateKey.generate()
PUBLIC = (
    KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    close_sites()
    dump_yaml(RUN, tmp_path / "run.yaml")
    config = site_config("north").model_copy(update={"receipt_key": PUBLIC})
    (tmp_path / "sites").mkdir()
    dump_yaml(config, tmp_path / "sites" / "0.yaml")
    return open_site(tmp_path / "sites" / "0.yaml")


def leave(site: Site) -> Receipt:
    """Let a hello leave; return the receipt that the server owes for it."""
    header = wire.Header("hello", 0, site.config_hash, "b" * 64, site="north", num_images=9)
    payload = wire.Payload(total=Sum({"images": np.ones(3)}))
    record = site.outbox.release(header, payload, (), answer_of(RUN, "hello"))
    sent = record.config_records[wire.HEADER]
    return Receipt(
        run=site.config_hash, code="b" * 64, kind="hello", round=0, site="north",
        payload=str(sent["payload_hash"]), ledger=str(sent["ledger_hash"]), outcome="ok",
        line="c" * 64,
    )  # fmt: skip


def signed(receipt: Receipt) -> Receipt:
    return receipt.model_copy(update={"signature": KEY.sign(receipt.content).hex()})


def give(site: Site, *receipts: Receipt) -> None:
    texts = [r.model_dump_json() for r in receipts]
    content = RecordDict({"header": ConfigRecord({RECEIPTS: texts, "kind": "train"})})
    take_receipts(site, content)
    assert set(content.config_records["header"]) == {"kind"}


def problems(site: Site) -> tuple[str, ...]:
    return read_receipts(site.config.state_folder, PUBLIC).problems


def test_a_good_receipt_counts_once_however_often_it_comes(site: Site) -> None:
    receipt = leave(site)
    for _ in range(3):
        give(site, signed(receipt), signed(receipt))
    read = read_receipts(site.config.state_folder, PUBLIC)
    assert read.problems == () and read.of({"hash": receipt.ledger}) == "yes"
    assert len(chain.read(site.config.state_folder / FILE)) == 1


WRONG = {
    "payload": ("f" * 64, "other arrays"),
    "ledger": ("f" * 64, "not in this site's ledger"),
    "round": (1, "another exchange"),
    "kind": ("evaluate", "another exchange"),
    "run": ("f" * 64, "another exchange"),
    "site": ("south", "another site"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_signed_receipt_for_something_else_is_a_problem(site: Site, name: str) -> None:
    value, words = WRONG[name]
    receipt = leave(site)
    give(site, signed(receipt.model_copy(update={name: value})))
    (problem,) = problems(site)
    assert words in problem
    read = read_receipts(site.config.state_folder, PUBLIC)
    assert read.of({"hash": receipt.ledger}) == "no"


def test_two_receipts_that_contradict_each_other_are_a_problem(site: Site) -> None:
    receipt = leave(site)
    give(site, signed(receipt))
    give(site, signed(receipt.model_copy(update={"outcome": "rejected:norm"})))
    assert "contradicts" in problems(site)[0]
    read = read_receipts(site.config.state_folder, PUBLIC)
    assert read.of({"hash": receipt.ledger}) == "yes"


def test_a_receipt_that_was_edited_in_the_file_shows(site: Site) -> None:
    give(site, signed(leave(site)))
    path = site.config.state_folder / FILE
    path.write_text(path.read_text().replace('"outcome": "ok"', '"outcome": "rejected:nan"'))
    assert len(problems(site)) == 2, "the chain and the signature both say so"


def test_receipts_taken_without_a_key_are_checked_once_there_is_one(site: Site) -> None:
    config = site.config.model_copy(update={"receipt_key": None})
    unsure = Site(config, site.run, site.config_hash)
    receipt = leave(site)
    give(unsure, receipt)
    assert read_receipts(config.state_folder, None).of({"hash": receipt.ledger}) == "yes"
    assert "not signed" in problems(site)[0]


def test_a_record_of_another_type_and_a_full_disk_stop_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_receipts(site, RecordDict({"header": MetricRecord({RECEIPTS: 1.0})}))
    assert problems(site) == (), "a message without a header is refused as a whole, elsewhere"
    take_receipts(site, RecordDict({"header": ConfigRecord({RECEIPTS: 1.0})}))
    assert "no receipt" in problems(site)[0]

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(chain, "append", full)
    give(site, signed(leave_nothing(site)))
    assert "no space left" in (site.config.state_folder / "site.log").read_text()


def leave_nothing(site: Site) -> Receipt:
    zeros = "0" * 64
    return Receipt(
        run=zeros, code=zeros, kind="hello", round=0, site="north", payload=zeros, ledger=zeros,
        outcome="ok", line=zeros,
    )  # fmt: skip
