"""A Grid in memory: the real handlers, in this process, over records that really travel as bytes.

It stands in for Flower's transport only. Every message and reply is deflated and inflated as
Flower does, so nothing is shared by reference; faults are functions put around a node's app.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.array import Array
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Node = Callable[[Message], Message | None]


def travel(content: RecordDict) -> RecordDict:
    """Return what arrives: new objects made of copied bytes."""
    copied: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = {
                key: Array(dtype=a.dtype, shape=tuple(a.shape), stype=a.stype, data=bytes(a.data))
                for key, a in record.items()
            }
            copied[name] = ArrayRecord(arrays)
        else:
            copied[name] = type(record).inflate(record.deflate())
    return RecordDict(copied)


class MemoryGrid(Grid):
    """Flower's Grid over functions, one per node; a node that returns None stays silent.

    Args:
        nodes: node id to what answers there.
        names: node id to registered name; empty as in a simulation.
        order: how a round's pending replies are ordered: arrival is by this list of node ids.
    """

    def __init__(
        self,
        nodes: Mapping[int, Node],
        names: Mapping[int, str] | None = None,
        order: Iterable[int] = (),
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.nodes, self.names = dict(nodes), dict(names or {})
        self.order = list(order)
        self.pushed: list[Message] = []
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError("the run of a MemoryGrid is 1")

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=self.names.get(node, ""), status="online")
            for node in self.nodes
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            message.content = travel(message.content)
            self.pushed.append(message)
            self._waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for message_id in message_ids:
            message = self._waiting.get(message_id)
            if message is None or not self._is_due(message):
                continue
            reply = self.nodes[message.metadata.dst_node_id](message)
            if reply is None:
                continue
            del self._waiting[message_id]
            if reply.has_content():
                reply.content = travel(reply.content)
            replies.append(reply)
        return replies

    def _is_due(self, message: Message) -> bool:
        """Return whether no node before this one in `order` still owes a reply."""
        node = message.metadata.dst_node_id
        if node not in self.order:
            return True
        before = self.order[: self.order.index(node)]
        return not any(m.metadata.dst_node_id in before for m in self._waiting.values())

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
