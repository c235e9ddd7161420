"""Keeps Flower's register of keys equal to the consortium's list of sites.

A site may connect when `sites/<name>.json` says `admitted` and only then; every other registered
key is taken away at once. The node ids stand in `superlink/nodes.json`, which only the supervisor
writes, so that no update here can undo a suspension made beside it.
What crosses a hospital's boundary: nothing; public keys are already here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mfm_core.errors import RunFailed
from mfm_core.whole_file import write_whole
from server.flower import Node, free_keys

log = logging.getLogger("mfm.supervisor")

ADMITTED = "admitted"


class Keys(Protocol):
    """The part of `server.flower.Flower` that is needed here."""

    def nodes(self) -> tuple[Node, ...]:
        """Return the registered nodes."""

    def register(self, name: str, public_key: str) -> int:
        """Register a key and return its node id."""

    def unregister(self, node_id: int) -> None:
        """Take a key's right away."""


@dataclass(frozen=True)
class Listed:
    """What the folder says of its sites.

    Attributes:
        admitted: name to public key.
        unreadable: names whose file is damaged; they stay as they are until it is mended.
    """

    admitted: Mapping[str, str]
    unreadable: tuple[str, ...]


def read_sites(folder: Path) -> Listed:
    """Return the admitted sites of `sites/`; a damaged file is named and decides nothing."""
    admitted: dict[str, str] = {}
    unreadable: list[str] = []
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        if not {"status", "public_key"} <= content.keys():
            unreadable.append(path.stem)
        elif content["status"] == ADMITTED:
            admitted[path.stem] = str(content["public_key"])
    return Listed(admitted, tuple(unreadable))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_nodes(path: Path) -> dict[str, dict[str, Any]]:
    """Return nodes.json: site name to `node_id` and `public_key`; empty when there is none."""
    rows = _read_json(path)
    return {
        name: row
        for name, row in rows.items()
        if isinstance(row, dict) and {"node_id", "public_key"} <= row.keys()
    }


class Register:
    """Brings Flower's register up to date whenever the list of sites has changed.

    Args:
        sites: folder of the sites' files.
        nodes: nodes.json.
        database: the SuperLink's SQLite file.
        keys: Flower.
        halted: tells whether to stop early, because each site takes a second or two.
    """

    def __init__(
        self,
        sites: Path,
        nodes: Path,
        database: Path,
        keys: Keys,
        halted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sites, self.nodes, self.database, self.keys = sites, nodes, database, keys
        self.halted = halted
        self._seen: tuple[tuple[str, int, int], ...] | None = None

    def changed(self) -> bool:
        """Tell whether the list differs from the one that was last brought to Flower."""
        return self._look() != self._seen

    def _look(self) -> tuple[tuple[str, int, int], ...]:
        found = [(path, path.stat()) for path in sorted(self.sites.glob("*.json"))]
        return tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in found)

    def update(self) -> tuple[str, ...]:
        """Register and unregister until Flower agrees with the list; return what went wrong.

        Raises:
            RunFailed: Flower does not answer; the next call tries again.
        """
        seen, listed = self._look(), read_sites(self.sites)
        problems = [
            f"sites/{name}.json is damaged: restore it; nothing is changed for {name} until then"
            for name in listed.unreadable
        ]
        kept = self._drop(listed)
        for name, key in listed.admitted.items():
            if self.halted():
                return ("the list of sites is not yet brought to Flower: told to stop",)
            if name not in kept:
                problems += self._add(kept, name, key)
        self._seen = seen
        return tuple(problems)

    def _drop(self, listed: Listed) -> dict[str, dict[str, Any]]:
        """Unregister every node that no admitted site owns; return the rows that stay."""
        registered = {node.node_id for node in self.keys.nodes()}
        kept = {
            name: row
            for name, row in read_nodes(self.nodes).items()
            if int(row["node_id"]) in registered
            and (name in listed.unreadable or listed.admitted.get(name) == row["public_key"])
        }
        for node_id in registered - {int(row["node_id"]) for row in kept.values()}:
            self.keys.unregister(node_id)
            log.info("node %d may no longer connect", node_id)
        self._keep(kept)
        return kept

    def _keep(self, kept: dict[str, dict[str, Any]]) -> None:
        write_whole(self.nodes, json.dumps(kept, indent=1).encode())

    def _add(self, kept: dict[str, dict[str, Any]], name: str, key: str) -> list[str]:
        free_keys(self.database)
        try:
            node_id = self.keys.register(name, key)
        except RunFailed as error:
            return [f"{name} could not be registered: {error}"]
        kept[name] = {"node_id": node_id, "public_key": key}
        self._keep(kept)
        log.info("%s may connect (node %d)", name, node_id)
        return []
