"""Flower's register follows the list of sites: nobody else may connect, and nobody is forgotten."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from mfm_core.errors import RunFailed
from server.flower import Node, free_keys
from server.register import Register, read_nodes


class FakeKeys:
    """Flower's rule: a key once seen is refused until its row lets go of it."""

    def __init__(self) -> None:
        self.rows: dict[int, str] = {}
        self.calls: list[str] = []
        self.down = False

    def nodes(self) -> tuple[Node, ...]:
        if self.down:
            raise RunFailed("nothing answers")
        return tuple(Node(number, "online", "") for number in self.rows)

    def register(self, name: str, public_key: str) -> int:
        self.calls.append(f"+{name}")
        if public_key in self.rows.values():
            raise RunFailed("Public key already in use.")
        number = 100 + len(self.calls)
        self.rows[number] = public_key
        return number

    def unregister(self, node_id: int) -> None:
        self.calls.append(f"-{self.rows.pop(node_id)}")


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
def register(tmp_path: Path, keys: FakeKeys) -> Register:
    (tmp_path / "sites").mkdir()
    return Register(tmp_path / "sites", tmp_path / "nodes.json", tmp_path / "state.db", keys)


def site(register: Register, name: str, status: str = "admitted", key: str = "") -> None:
    content = {"name": name, "status": status, "public_key": key or f"key-{name}"}
    (register.sites / f"{name}.json").write_text(json.dumps(content))


def test_admitted_sites_and_no_others_may_connect(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    site(register, "south")
    site(register, "east", "suspended")
    assert register.changed() and register.update() == () and not register.changed()
    assert sorted(keys.rows.values()) == ["key-north", "key-south"]
    site(register, "south", "suspended")
    assert register.changed() and register.update() == ()
    assert list(keys.rows.values()) == ["key-north"]
    (register.sites / "north.json").unlink()
    assert register.changed() and register.update() == () and keys.rows == {}


def test_nothing_is_done_twice(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    register.update()
    register.update()
    assert keys.calls == ["+north"]


def test_a_node_nobody_owns_loses_its_right(register: Register, keys: FakeKeys) -> None:
    """As after a kill between registering and writing nodes.json, or a key added by hand."""
    keys.rows[7] = "key-stranger"
    site(register, "north")
    register.update()
    assert list(keys.rows.values()) == ["key-north"]


def test_a_lost_database_is_filled_again(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    register.update()
    keys.rows.clear()
    register.update()
    assert list(keys.rows.values()) == ["key-north"]


def test_a_new_key_takes_the_place_of_the_old_one(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    register.update()
    site(register, "north", key="key-new")
    register.update()
    assert list(keys.rows.values()) == ["key-new"]
    assert read_nodes(register.nodes)["north"]["public_key"] == "key-new"


def test_two_sites_with_one_key_are_named_and_the_first_stays(
    register: Register, keys: FakeKeys
) -> None:
    site(register, "north", key="same")
    site(register, "south", key="same")
    (problem,) = register.update()
    assert "south" in problem and "in use" in problem
    assert list(read_nodes(register.nodes)) == ["north"]


def test_a_damaged_file_changes_nothing_for_its_site(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    register.update()
    (register.sites / "north.json").write_text('{"name": "no')
    (problem,) = register.update()
    assert "north.json is damaged" in problem and list(keys.rows.values()) == ["key-north"]


def test_an_unreachable_flower_is_asked_again(register: Register, keys: FakeKeys) -> None:
    site(register, "north")
    keys.down = True
    with pytest.raises(RunFailed):
        register.update()
    assert register.changed()


def test_told_to_stop_it_leaves_the_rest_for_the_next_time(
    register: Register, keys: FakeKeys
) -> None:
    for name in ("east", "north", "south"):
        site(register, name)
    register.halted = lambda: len(keys.calls) >= 2
    assert "told to stop" in register.update()[0] and register.changed()
    assert keys.calls == ["+east", "+north"]
    register.halted = lambda: False
    assert register.update() == () and keys.calls[2:] == ["+south"]


def test_only_keys_of_unregistered_nodes_are_freed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert free_keys(path) == 0
    with sqlite3.connect(path) as link:
        link.execute("CREATE TABLE node (node_id INTEGER, status TEXT, public_key BLOB UNIQUE)")
        rows = [(1, "online", b"a"), (2, "unregistered", b"b"), (3, "offline", b"c")]
        link.executemany("INSERT INTO node VALUES (?, ?, ?)", rows)
    link.close()
    assert free_keys(path) == 1 and free_keys(path) == 0
    with sqlite3.connect(path) as link:
        rows = link.execute("SELECT public_key FROM node ORDER BY node_id").fetchall()
    assert rows == [(b"a",), (None,), (b"c",)]
    link.close()
