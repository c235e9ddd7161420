"""Replies under a secure sum: taken by name, once, of the agreed form, or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mfm_core.errors import UpdateRejected
from strategies import wire
from strategies.answers import Answer
from strategies.collector import Identity
from strategies.config import AggregationConfig
from strategies.plan import Step
from strategies.ring import Masked
from strategies.rounds import Site
from strategies.secure_payload import Form
from strategies.secure_replies import Keys, MaskedSum
from tests.strategies.records import with_array

SCHEMA = (("w", (3,)),)
IDENTITY = Identity("c" * 64, "d" * 64, SCHEMA, SCHEMA, AggregationConfig(), ("north", "south"))
TOTAL = (("n", (2,)),)
FORM = Form(0, TOTAL)


def header(kind: str, site: str = "north") -> wire.Header:
    return wire.Header(kind, 0, "c" * 64, "d" * 64, site=site)


def masked(site: str = "north", values: tuple[int, ...] = (1, 2, 3)) -> wire.Payload:
    return wire.Payload(masked=Masked(np.zeros(0, np.uint16), np.array(values, np.uint64)))


def summing() -> MaskedSum:
    return MaskedSum(IDENTITY, Step("evaluate"), Answer(total=TOTAL), (FORM, ("north", "south")))


def refused(gather, record, reason: str) -> None:
    with pytest.raises(UpdateRejected) as caught:
        gather.add(Site(1), record)
    assert caught.value.reason == reason


def test_masked_answers_add_in_the_ring():
    found, top = summing(), 2**64 - 1
    found.add(Site(1), wire.encode(header("evaluate"), masked(values=(top, 2, 3))))
    found.add(Site(2), wire.encode(header("evaluate", "south"), masked(values=(5, 0, 1))))
    assert found.total.total.tolist() == [4, 2, 4]
    assert found.names == {1: "north", 2: "south"}
    assert found.result().images == 0, "the number of images is in the sum"
    assert found.result().seen == {}


def test_second_names_strangers_and_other_forms_are_refused():
    found = summing()
    found.add(Site(1), wire.encode(header("evaluate"), masked()))
    refused(found, wire.encode(header("evaluate"), masked()), "site")
    refused(found, wire.encode(header("evaluate", "nobody"), masked()), "site")
    refused(found, wire.encode(header("evaluate", "south"), masked(values=(1, 2))), "schema")
    plain = np.zeros(3, np.float32)
    refused(found, wire.encode(header("evaluate", "south"), wire.Payload(plain), SCHEMA), "schema")
    honest = wire.encode(header("evaluate", "south"), masked())
    floats = with_array(honest, wire.TOTAL, np.zeros(3))
    refused(found, floats, "dtype")
    assert found.total.total.tolist() == [1, 2, 3], "nothing of a refused reply was added"


def test_a_site_without_keys_is_no_participant():
    identity = replace(IDENTITY, admitted=())
    found = MaskedSum(identity, Step("evaluate"), Answer(total=TOTAL), (FORM, ("north",)))
    refused(found, wire.encode(header("evaluate", "south"), masked()), "participants")
    assert found.names == {}


def test_keys_are_kept_as_they_are_read_or_refused():
    def read(site: str, content: bytes) -> str:
        if content != b"fine":
            raise UpdateRejected("roster", "no")
        return f"{site}: {content.decode()}"

    keys = Keys(IDENTITY, Step("secure_keys"), read)
    keys.add(Site(1), wire.encode(header("secure_keys"), wire.Payload(sealed=b"fine")))
    assert keys.found == {"north": "north: fine"}
    wrong = wire.encode(header("secure_keys", "south"), wire.Payload(sealed=b"else"))
    refused(keys, wrong, "roster")
    refused(keys, wire.encode(header("secure_keys", "south"), masked()), "schema")
    assert set(keys.of_site) == {"north"}
