"""No identifier leaves a hospital: searched in memory here, over real processes in the slow test.

The cheap test takes every reply as it travels, error replies included, and all that the
coordinator keeps; `python -m tests.federation.egress` records what real SuperNodes send.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from client.site import CACHE, close_sites
from mfm_core.config import dump_yaml
from mfm_core.errors import TooFewSites
from server.app import run_federation
from server.report import write_page
from strategies.config import RunConfig
from tests.federation.egress import AGREED, Proof, judge, prove, table_of
from tests.federation.egress_control import control_pieces
from tests.federation.identifiers import Planting, plant
from tests.federation.searching import Mark, Search, bodies, text_forms
from tests.server.hospitals import consortium, lay_out, make_grid, site_config
from tests.strategies.memory_grid import Node

NAMES = ("north", "south", "west")
RUN = RunConfig.model_validate({**AGREED.model_dump(), "rounds": 1, "mitigation": {}})
Record = list[tuple[str, bytes]]


@pytest.fixture
def plants(tmp_path: Path) -> dict[str, Planting]:
    """Lay out three hospitals with identifiers in data, tables, names and settings."""
    lay_out(tmp_path / "all", NAMES, RUN)
    found = {}
    for number, name in enumerate(NAMES):
        planting = found[name] = plant(tmp_path / "data", name, number, patients=6)
        state = planting.words.word("path of the state folder")
        change = {"data": planting.data, "state_folder": Path(f"../state/{state}")}
        file = tmp_path / "all" / "sites" / f"{number}.yaml"
        dump_yaml(site_config(name).model_copy(update=change), file)
        remark = planting.words.word("comment in site.yaml")
        file.write_text(f"# {remark}\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    close_sites()
    return found


def recorded(
    name: str, record: Record, *faults: Callable[[Message], None]
) -> Callable[[Node], Node]:
    """Return a wrapper that keeps all bytes of a node's replies; faults come in mid-run."""

    def wrap(node: Node) -> Node:
        def answer(message: Message) -> Message | None:
            reply = node(message)
            assert reply is not None
            now = message.metadata.message_type == "query.patch_moments"  # hello is over
            for fault in faults if now else ():
                fault(reply)
            if reply.has_error():
                words = f"{reply.error.code} {reply.error.reason}"
                record.append((f"error of {name}", words.encode()))
            parts = get_all_nested_objects(reply).values()
            record.append((f"sent by {name}", b"".join(part.deflate() for part in parts)))
            return reply

        return answer

    return wrap


def searched(record: Record, output: Path) -> dict[str, list[bytes]]:
    """Return everything recorded and everything the coordinator keeps, by place."""
    contents: dict[str, list[bytes]] = {}
    for place, content in record:
        contents.setdefault(place, []).append(content)
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    contents["at the coordinator"] = [path.read_bytes() for path in files]
    return contents


def test_a_run_and_its_errors_let_no_identifier_out_and_a_leak_is_found(
    tmp_path: Path, plants: dict[str, Planting]
) -> None:
    folder, record = tmp_path / "all", Record()
    wrap = {number: recorded(name, record) for number, name in enumerate(NAMES)}
    settings = consortium(folder, "whole", simulated_sites=3)
    run_federation(make_grid(folder, 3, wrap), settings, resume=False)
    write_page(folder / "whole", None)
    pieces = control_pieces()

    def leaky(reply: Message) -> None:
        leak = {f"x{number}": piece.content for number, piece in enumerate(pieces)}
        reply.content["leak"] = ConfigRecord(leak)

    def harmed(reply: Message) -> None:
        break_sites(folder, [plants["north"], plants["west"]])

    harms = {**wrap, 0: recorded("north", record, harmed), 1: recorded("south", record, leaky)}
    broken = consortium(folder, "broken", simulated_sites=3, attempts=1)
    with pytest.raises(TooFewSites):
        run_federation(make_grid(folder, 3, harms), broken, resume=False)
    contents = searched(record, folder / "whole")
    contents["at the coordinator, broken"] = searched([], folder / "broken")["at the coordinator"]
    marks = [mark for planting in plants.values() for mark in planting.marks]
    proof = judge(Proof(), marks, pieces, contents)
    assert proof.holds, table_of(proof)
    assert len({mark.name for mark in marks if "uint8" not in mark.forms}) >= 200
    assert any(place.startswith("error of") for place in proof.searched)
    assert all(size > 0 for _, size in proof.searched.values())


def break_sites(folder: Path, plants: Sequence[Planting]) -> None:
    """Cut an image of some sites off and let all decode their images anew."""
    for planting in plants:
        path = planting.data.root / planting.files[0]
        path.write_bytes(path.read_bytes()[:400])
    for cache in (folder / "state").glob(f"*/{CACHE}"):
        shutil.rmtree(cache)
    close_sites()


def test_what_a_search_finds_is_what_stands_there() -> None:
    word = "Zorquilmäv-4821"
    search = Search([Mark(word, "test", "north", text_forms(word))])
    noise = np.random.default_rng(1).bytes(200_000)
    assert not search.through(noise)
    for form, content in text_forms(word).items():
        assert (word, form) in search.bare(noise + content + noise), form
        wrong = content[:-1] + bytes([content[-1] ^ 0xFF])
        assert not search.bare(noise + wrong + noise), form


def test_bodies_of_http_messages_are_put_together() -> None:
    plain = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nAnna^"
    pieces = (
        b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nMue\r\n3\r\nler\r\n0\r\n\r\n"
    )
    assert bodies(plain + pieces + plain) == [b"Anna^", b"Mueler", b"Anna^"]


@pytest.mark.slow
def test_three_real_hospitals_let_no_identifier_out(tmp_path: Path) -> None:
    proof = prove(tmp_path / "real")
    assert proof.holds, table_of(proof)
    words = sum(count for where, count in proof.planted.items() if "pixel" not in where)
    assert words >= 200 and len(proof.controls) >= 40
    assert any("error:data" in reply for reply in proof.replies), proof.replies
