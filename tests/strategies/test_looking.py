"""Replies at a SuperLink: one question for all, nobody waits for another's upload or mistake."""

from __future__ import annotations

import inspect
import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from strategies.looking import Found, GridReplies, Replies, SuperLinkReplies, replies_of
from tests.strategies.memory_grid import MemoryGrid


class Link:
    """What a SuperLink says: replies that are announced, and those parts that were uploaded."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, ...]] = []
        self.confirmed: list[str] = []
        self.parts: dict[str, bytes] = {}
        self._announced: list[Message] = []

    def announce(self, message_id: str, text: str) -> list[str]:
        """Announce a reply of which nothing is uploaded; return the ids of its parts."""
        asked = Message(RecordDict(), 5, "train")
        asked.metadata.__dict__["_message_id"] = message_id
        reply = Message(RecordDict({"header": ConfigRecord({"text": text})}), reply_to=asked)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self._announced.append(reply)
        ids = list(get_all_nested_objects(reply))
        self.parts |= dict.fromkeys(ids, b"")
        return ids

    def upload(self, *texts: str) -> None:
        """Upload every part of the replies with these texts."""
        for reply in self._announced:
            if str(reply.content.config_records["header"]["text"]) in texts:
                whole = get_all_nested_objects(reply)
                self.parts |= {name: part.deflate() for name, part in whole.items()}

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.questions.append(tuple(request.message_ids))
        found = [m for m in self._announced if m.metadata.reply_to_message_id in self.questions[-1]]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(m)) for m in found],
            message_object_trees=[get_object_tree(m) for m in found],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        part = self.parts.get(request.object_id)
        return PullObjectResponse(
            object_found=part is not None, object_available=bool(part), object_content=part or b""
        )

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


@pytest.fixture
def link() -> Link:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Link()


@pytest.fixture
def replies(link: Link) -> Replies:
    grid = HttpGrid(token="none")
    grid.set_run(Run.create_empty(7))
    grid.__dict__["_client"] = link
    return replies_of(grid)


def said(found: list[Found]) -> list[tuple[str, str]]:
    """Return the ids with the texts of whole replies."""
    whole = [(name, reply) for name, reply in found if isinstance(reply, Message)]
    return [(name, str(r.content.config_records["header"]["text"])) for name, r in whole]


def test_all_sites_are_one_question(link: Link, replies: Replies) -> None:
    assert list(replies.look(["a", "b", "c"])) == []
    link.announce("a", "one")
    link.announce("c", "three")
    link.upload("one", "three")
    assert said(list(replies.look(["a", "b", "c"]))) == [("a", "one"), ("c", "three")]
    assert link.questions == [("a", "b", "c")] * 2 and len(link.confirmed) == 2


def test_an_upload_under_way_holds_nobody_up(link: Link, replies: Replies) -> None:
    link.announce("a", "slow")
    link.announce("b", "whole")
    link.upload("whole")
    begun = time.monotonic()
    assert said(list(replies.look(["a", "b"]))) == [("b", "whole")]
    assert list(replies.look(["a"])) == []
    assert time.monotonic() - begun < 0.7, "Flower's own grid waits a second for it"
    link.upload("slow")
    assert said(list(replies.look(["a"]))) == [("a", "slow")]
    assert link.questions == [("a", "b")], "what is announced is not asked for again"
    assert len(link.confirmed) == 2, "only a whole reply is confirmed"


def test_one_reply_is_fetched_when_it_is_wanted(link: Link, replies: Replies) -> None:
    for name in "abc":
        link.announce(name, f"of {name}")
        link.upload(f"of {name}")
    found = replies.look(["a", "b", "c"])
    next(found)
    assert len(link.confirmed) == 1
    assert len(list(found)) == 2


def test_a_lost_or_broken_reply_is_one_sites_fault(link: Link, replies: Replies) -> None:
    gone = link.announce("a", "gone")
    broken = link.announce("b", "broken")
    link.announce("c", "good")
    link.upload("gone", "broken", "good")
    del link.parts[gone[-1]]
    link.parts |= {name: b"Nonsense  0\x00" for name in broken}
    found = dict(replies.look(["a", "b", "c"]))
    assert isinstance(found["a"], Error) and found["a"].code == 3
    assert found["b"] is None
    assert said(list(found.items())) == [("c", "good")]
    assert list(replies.look([])) == []


def test_a_site_that_sends_two_is_heard_twice(link: Link, replies: Replies) -> None:
    link.announce("a", "first")
    link.announce("a", "second")
    link.upload("first", "second")
    assert said(list(replies.look(["a"]))) == [("a", "first"), ("a", "second")]


def test_what_is_used_of_flower_is_what_its_own_grid_does() -> None:
    source = inspect.getsource(HttpGrid.pull_messages)
    for call in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert f"self._runtime_client.{call}" in source and hasattr(RuntimeHttpClient, call)
    assert 'metadata.__dict__["_message_id"] = msg_id' in source


def test_another_grid_is_asked_for_each_reply() -> None:
    grid = MemoryGrid({1: lambda message: Message(RecordDict(), reply_to=message)}, {1: "a"})
    assert isinstance(replies_of(grid), GridReplies)
    (name,) = grid.push_messages([Message(RecordDict(), 1, "train")])
    ((answered, reply),) = replies_of(grid).look([name, "unknown"])
    assert answered == name and isinstance(reply, Message)
    assert list(replies_of(grid).look([name])) == []
    assert isinstance(replies_of(HttpGridWithRun()), SuperLinkReplies)


class HttpGridWithRun(HttpGrid):
    """A grid that has not connected yet."""

    def __init__(self) -> None:
        super().__init__(token="none", insecure=True)
        self.set_run(Run.create_empty(7))
