"""Signed receipts over whole runs in memory: real sites, a killed server, a lying one."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client.ledger import OutboxReading, read_outbox
from client.site import close_sites
from mfm_core.config import dump_yaml
from mfm_core.errors import ConfigError
from server.app import run_federation
from server.certificates import create_authority
from server.config import ConsortiumConfig
from server.journal import read_lines
from server.receipt_key import create_receipt_key, public_half, read_receipt_key, signer_of
from strategies import chain
from strategies.receipts import RECEIPTS, Receipt, unsigned
from tests.server.hospitals import (
    RUN,
    Killed,
    consortium,
    dying_after,
    lay_out,
    make_grid,
    site_config,
)
from tests.strategies.memory_grid import Node

SHORT = RUN.model_validate(
    {
        **RUN.model_dump(),
        "rounds": 1,
        "mitigation": {},
        "statistics": {"bootstrap_replicates": 2},
        "audit": {"enabled": False},
    }
)
KINDS = ["hello", "patch_moments", "train", "latent_sums", "heads", "evaluate", "atlas"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = lay_out(tmp_path / "federation", run=SHORT)
    create_receipt_key(made / "receipt.key")
    for index, name in enumerate(("north", "south")):
        config = site_config(name).model_copy(
            update={"receipt_key": public_half(made / "receipt.key")}
        )
        dump_yaml(config, made / "sites" / f"{index}.yaml")
    close_sites()
    return made


def settings(folder: Path, **changed: object) -> ConsortiumConfig:
    return consortium(folder, "out", receipt_key="receipt.key", **changed)


def ledger(folder: Path, index: int = 0, *, witness: bool = True) -> OutboxReading:
    rounds = folder / "out" / "rounds.jsonl"
    return read_outbox(folder / "sites" / f"{index}.yaml", rounds if witness else None)


def received(read: OutboxReading) -> list[tuple[str, str]]:
    return [(line["kind"], read.received.of(line)) for line in read.lines]


def test_a_site_ends_with_a_receipt_for_all_but_the_last_empty_record(folder: Path) -> None:
    run_federation(make_grid(folder), settings(folder), resume=False)
    assert chain.link_problems(read_lines(folder / "out")) == []
    assert [line["phase"] for line in read_lines(folder / "out")] == KINDS
    for index in (0, 1):
        read = ledger(folder, index)
        assert received(read) == [*((kind, "yes") for kind in KINDS), ("receipts", "no")]
        assert read.problems == read.received.problems == () and read.signed


@pytest.mark.parametrize("after", [1, 2, 3, 5, 14, 15])
def test_a_killed_and_resumed_server_leaves_no_gap_and_raises_no_alarm(
    folder: Path, after: int
) -> None:
    """`after` counts replies: killed between two of one exchange, or after both were signed."""
    dying = dying_after(after)
    with pytest.raises(Killed):
        run_federation(make_grid(folder, wrap={0: dying, 1: dying}), settings(folder), resume=False)
    run_federation(make_grid(folder), settings(folder), resume=True)
    counted = {line["ledgers"]["north"] for line in read_lines(folder / "out")}
    read = ledger(folder)
    assert read.problems == read.received.problems == ()
    told = {line["hash"]: read.received.of(line) for line in read.lines}
    assert {told[line] for line in counted} == {"yes"}
    assert sum(word == "no" for word in told.values()) <= 3


def test_a_rejected_reply_has_a_receipt_that_says_so(folder: Path) -> None:
    run = SHORT.model_copy(
        update={"aggregation": SHORT.aggregation.model_copy(update={"max_update_norm": 1e-6})}
    )
    dump_yaml(run, folder / "run.yaml")
    close_sites()
    with pytest.raises(Exception, match="quorum"):
        run_federation(make_grid(folder), settings(folder), resume=False)
    assert ("train", "no") in received(ledger(folder, witness=False))

    def small(node: Node) -> Node:
        def answer(message: Message) -> Message | None:
            reply = node(message)
            if reply is not None and message.metadata.message_type == "train":
                reply.content.config_records["header"]["num_images"] = 10**9
            return reply

        return answer

    dump_yaml(SHORT, folder / "run.yaml")
    close_sites()
    changed = consortium(folder, "other", receipt_key="receipt.key", quorum=1)
    run_federation(make_grid(folder, wrap={0: small}), changed, resume=False)
    assert ("train", "refused:weight") in received(ledger(folder, witness=False))
    assert ledger(folder, witness=False).received.problems == ()


def test_a_site_that_misses_exchanges_gets_its_receipts_later(folder: Path) -> None:
    def silent_in(kind: str) -> Callable[[Node], Node]:
        def wrap(node: Node) -> Node:
            return lambda message: None if message.metadata.message_type == kind else node(message)

        return wrap

    quick = settings(folder, quorum=1, grace_s=0.05, attempts=1)
    grid = make_grid(folder, wrap={0: silent_in("query.heads")})
    run_federation(grid, quick, resume=False)
    words = dict(received(ledger(folder)))
    assert "heads" not in words and words["latent_sums"] == words["evaluate"] == "yes"
    assert ledger(folder).received.problems == ()


def tampered(change: Callable[[list[Receipt]], list[Any]]) -> Callable[[Node], Node]:
    """Return a server's lie: what it does to the receipts of every message to a site."""

    def wrap(node: Node) -> Node:
        def answer(message: Message) -> Message | None:
            header = message.content.config_records["header"]
            if RECEIPTS in header:
                texts = list(header[RECEIPTS])  # type: ignore
                told = change([Receipt.model_validate_json(str(text)) for text in texts])
                lies = [t if isinstance(t, str) else t.model_dump_json() for t in told]
                header[RECEIPTS] = lies
            return node(message)

        return answer

    return wrap


def with_fields(**fields: object) -> Callable[[list[Receipt]], list[Any]]:
    return lambda found: [receipt.model_copy(update=fields) for receipt in found]


LIES = {
    "not signed": (with_fields(signature=""), "is not signed"),
    "signed by another": (with_fields(signature="0" * 128), "not signed by the consortium's"),
    "other outcome": (with_fields(outcome="rejected:norm"), "not signed by the consortium's"),
    "no receipt": (lambda found: ["{}"], "no receipt"),
    "far too many": (lambda found: found * 99, "no receipt"),
    "far too long": (lambda found: ["x" * 10_000], "no receipt"),
}


@pytest.mark.parametrize("how", LIES)
def test_a_wrong_receipt_is_shown_and_training_goes_on(folder: Path, how: str) -> None:
    change, words = LIES[how]
    grid = make_grid(folder, wrap={0: tampered(change)})
    run_federation(grid, settings(folder), resume=False)
    read = ledger(folder)
    assert read.problems == () and any(words in problem for problem in read.received.problems)
    assert "yes" not in dict(received(read)).values()
    assert ledger(folder, 1).received.problems == ()


def test_old_receipts_and_none_at_all_leave_the_records_without_one(folder: Path) -> None:
    first: list[Receipt] = []

    def old(found: list[Receipt]) -> list[Any]:
        first.extend(found[:1] if not first else [])
        return first

    lies = {0: tampered(old), 1: tampered(lambda found: [])}
    run_federation(make_grid(folder, wrap=lies), settings(folder), resume=False)
    words = [word for _, word in received(ledger(folder, 0))]
    assert words == ["yes", *["no"] * len(KINDS)]
    assert {word for _, word in received(ledger(folder, 1))} == {"no"}


def test_a_rewritten_rounds_file_contradicts_the_receipts(folder: Path) -> None:
    run_federation(make_grid(folder), settings(folder), resume=False)
    path = folder / "out" / "rounds.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"attempts": 1', '"attempts": 2', 1))
    assert any("changed" in problem for problem in ledger(folder).received.problems)
    facts = [
        {k: v for k, v in line.items() if k not in ("hash", "previous")}
        for line in read_lines(folder / "out")
    ]
    facts[2]["images"] = 1
    text, previous = "", chain.START
    for line in facts:
        linked = chain.linked(line, previous)
        text, previous = text + json.dumps(linked) + "\n", linked["hash"]
    path.write_text(text)
    found = ledger(folder).received.problems
    assert found and all("no longer holds" in problem for problem in found)


def test_a_run_without_a_key_keeps_unsigned_receipts_and_says_so(folder: Path) -> None:
    for index, name in enumerate(("north", "south")):
        dump_yaml(site_config(name), folder / "sites" / f"{index}.yaml")
    close_sites()
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    read = ledger(folder)
    assert dict(received(read))["train"] == "yes" and not read.signed
    assert read.received.problems == ()


def test_the_key_is_readable_by_its_owner_only_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "receipt.key"
    create_receipt_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signature = signer_of(path)(b"content")
    read_receipt_key(path).public_key().verify(bytes.fromhex(signature), b"content")
    assert len(public_half(path)) == 64 and signer_of(None) is unsigned


@pytest.mark.parametrize("content", [None, b"", b"scribble"])
def test_a_damaged_key_is_refused_in_words(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "receipt.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="restore it"):
        public_half(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    create_authority(tmp_path, "three")
    with pytest.raises(ConfigError, match="no Ed25519 key"):
        read_receipt_key(tmp_path / "ca.key")
