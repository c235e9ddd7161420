"""Replies to the exchanges of a secure sum, checked and kept as they come.

What crosses the hospital's boundary: nothing here; public keys, sealed shares and masked answers
have arrived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from flwr.app import RecordDict

from mfm_core.errors import UpdateRejected
from strategies import wire
from strategies.answers import Answer
from strategies.collector import Identity, Pooled, check_name
from strategies.plan import Step
from strategies.ring import Masked
from strategies.rounds import Site
from strategies.secure_payload import Form


class Gathering(Protocol):
    """What checks the replies of one exchange."""

    names: dict[int, str]

    def add(self, site: Site, record: RecordDict) -> None:
        """Check one reply and keep it."""

    def result(self) -> Pooled:
        """Return what the ledger line says of them."""


class _Named(ABC):
    """Replies of an exchange by the name of their site."""

    def __init__(self, identity: Identity, step: Step) -> None:
        self._identity, self._step = identity, step
        self.of_site: dict[str, dict[str, Any]] = {}
        self.names: dict[int, str] = {}

    def _open(self, site: Site, record: RecordDict, expected: wire.Expected) -> wire.Payload:
        header, payload = wire.decode(record, expected)
        check_name(self._identity, header.site, self.of_site)
        self._take(header, payload)
        self.of_site[header.site] = {"images": header.num_images}
        self.names[site.node_id] = header.site
        return payload

    @abstractmethod
    def _take(self, header: wire.Header, payload: wire.Payload) -> None:
        """Keep what a checked reply holds; raise UpdateRejected where it is not as agreed."""

    def result(self) -> Pooled:
        """Return who replied; nothing of it is a figure."""
        images = sum(int(noted["images"]) for noted in self.of_site.values())
        return Pooled(images, None, None, dict(sorted(self.of_site.items())))


class Keys(_Named):
    """Replies that hold keys or shares: bytes of a known length, checked by `read`."""

    def __init__(self, identity: Identity, step: Step, read: Callable[[str, bytes], Any]) -> None:
        super().__init__(identity, step)
        self._read = read
        self.found: dict[str, Any] = {}

    def add(self, site: Site, record: RecordDict) -> None:
        """Check one reply and keep what was read of it.

        Raises:
            UpdateRejected: a check failed; nothing was kept.
        """
        expected = self._identity.expect(self._step, Answer(sealed=True), site.name or None)
        self._open(site, record, expected)

    def _take(self, header: wire.Header, payload: wire.Payload) -> None:
        self.found[header.site] = self._read(header.site, payload.sealed)


class MaskedSum(_Named):
    """Masked answers: added as they come, in the memory of one."""

    def __init__(
        self, identity: Identity, step: Step, answer: Answer, group: tuple[Form, Sequence[str]]
    ) -> None:
        super().__init__(identity, step)
        self._answer, (self._form, self._participants) = answer, group
        parts, sums = self._form.sizes
        self.total = Masked(np.zeros(parts, np.uint16), np.zeros(sums, np.uint64))

    def add(self, site: Site, record: RecordDict) -> None:
        """Check one reply and add it.

        Raises:
            UpdateRejected: a check failed; nothing was added.
        """
        agreed = self._identity.expect(self._step, self._answer, site.name or None)
        expected = replace(
            agreed, model=None, total=None, masked=self._form.sizes, max_norm=None, images=(0, 0)
        )
        self._open(site, record, expected)

    def _take(self, header: wire.Header, payload: wire.Payload) -> None:
        assert payload.masked is not None
        if header.site not in self._participants:
            raise UpdateRejected("participants", f"{header.site} has no keys in this exchange")
        self.total = self.total.plus(payload.masked)
