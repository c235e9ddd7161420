"""Replies as they become complete: one look for all sites, one reply held at a time.

Flower's grid waits a second and more where a reply is announced but not uploaded yet, and takes
nobody else's meanwhile; asked for many replies at once it holds them all, and one that cannot be
put together loses the others. So replies are looked for with the client of its grid here. This uses
private interfaces of flwr 1.41, as `client.tasks` does at a site; contract tests hold them.
What crosses the hospital's boundary: nothing here; replies have arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid.http_grid import HttpGrid

BROKEN = (ValueError, TypeError, KeyError, IndexError)
"""What Flower raises where a record cannot be put together."""

Found = tuple[str, Message | Error | None]
"""Id of the message that was answered, and the reply; None where it cannot be put together."""


class Replies(Protocol):
    """Where the replies to one exchange are looked for."""

    def look(self, ids: Collection[str]) -> Iterator[Found]:
        """Give every reply to these messages that is complete by now, one at a time."""


def replies_of(grid: Grid) -> Replies:
    """Return where to look for the replies to messages that were pushed through a grid."""
    return SuperLinkReplies(grid) if isinstance(grid, HttpGrid) else GridReplies(grid)


class GridReplies:
    """Replies of any grid, asked for one by one."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def look(self, ids: Collection[str]) -> Iterator[Found]:
        """Give every reply that is there."""
        for message_id in tuple(ids):
            try:
                replies = list(self._grid.pull_messages([message_id]))
            except BROKEN:
                yield message_id, None
                continue
            yield from ((message_id, reply) for reply in replies)


class SuperLinkReplies:
    """Replies at a SuperLink: one request for all, then the parts of each that is announced."""

    def __init__(self, grid: HttpGrid) -> None:
        self._client, self._node, self._run = grid._runtime_client, grid.node, grid.run.run_id
        self._pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, self._run)
        self._announced: list[tuple[str, ObjectTree]] = []

    def look(self, ids: Collection[str]) -> Iterator[Found]:
        """Give every reply that is complete; what is still uploaded is left for the next look."""
        known = {message_id for message_id, _ in self._announced}
        asked = [message_id for message_id in ids if message_id not in known]
        if asked:
            answer = self._client.PullMessages(PullAppMessagesRequest(message_ids=asked))
            for message, tree in zip(
                answer.messages_list, answer.message_object_trees, strict=True
            ):
                self._announced.append((message.metadata.reply_to_message_id, tree))
        for announced in [found for found in self._announced if found[0] in ids]:
            reply: Message | Error | None
            try:
                reply = self._fetch(announced[1])
            except ObjectUnavailableError:
                continue
            except ObjectPullError:
                reply = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the reply was never complete")
            except BROKEN:
                reply = None
            self._announced.remove(announced)
            yield announced[0], reply

    def _fetch(self, tree: ObjectTree) -> Message:
        """Return the message of a tree.

        Raises:
            ObjectUnavailableError: a part is still uploaded.
            ObjectPullError: a part is gone.
            ValueError, TypeError, KeyError, IndexError: the parts are no message.
        """
        parts = {part.object_id: self._pull(part.object_id) for part in iterate_object_tree(tree)}
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run, message_object_id=tree.object_id
            )
        )
        return _message(tree.object_id, parts)


def _message(object_id: str, parts: Mapping[str, bytes]) -> Message:
    found = inflate_object_from_contents(object_id, dict(parts))
    if not isinstance(found, Message):
        raise TypeError("the reply is no message")
    found.metadata.__dict__["_message_id"] = object_id  # it is not in the object itself
    return found
