"""A federation in this process, for small studies: the real apps, without Flower's engine.

Starting Flower and Ray and loading torch in every worker takes half a minute to two, longer than
some studies train. Here the server app asks each hospital's client app in turn; every message and
reply is deflated and inflated as on the wire, so nothing is shared and the bits are the same.
What crosses a hospital's boundary: what the client app releases, as in every run.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.message.array import Array
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from mfm_core.config import dump_yaml

Node = Callable[[Message], Message | None]
FIRST_NODE, HERE = 100, "here"


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
        """Refuse: the run of a MemoryGrid is 1."""
        raise NotImplementedError("the run of a MemoryGrid is 1")

    @property
    def run(self) -> Run:
        """Return an empty run with the number 1."""
        return Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes."""
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes with their names, all online."""
        return [
            NodeInfo(node_id=node, name=self.names.get(node, ""), status="online")
            for node in self.nodes
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; they are answered when they are pulled."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            message.content = travel(message.content)
            self.pushed.append(message)
            self._waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to those of the messages that are due; this is where nodes work."""
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
        """Return the replies to messages."""
        return self.pull_messages(self.push_messages(messages))


def _lay_out(folder: Path, sites: int) -> Path:
    """Write settings files that name run.yaml, which comes with the code on the engine."""
    from client.config import load_site_config

    place = folder / HERE
    place.mkdir(exist_ok=True)
    for index in range(sites):
        config = load_site_config(folder / "sites" / f"{index}.yaml")
        found = config.model_copy(update={"run": folder.resolve() / "run.yaml"})
        dump_yaml(found, place / f"{index}.yaml")
    return place


def hospital_node(sites: Path, index: int, many: int) -> Node:
    """Return a node that runs the real client app on the settings file `<sites>/<index>.yaml`."""
    from client.app import app

    def answer(message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={"partition-id": index, "num-partitions": many},
            state=RecordDict(),
            run_config={"sites-folder": str(sites)},
        )
        return app(message, context)

    return answer


def federate_here(folder: Path, sites: int, *, resume: bool) -> None:
    """Run or resume the federation of a prepared run folder in this process.

    Args:
        folder: made by `simulation.hospitals.prepare`.
        sites: number of its hospitals.
        resume: go on from the folder's last finished phase.

    Raises:
        MfmError: the run ended without a model; the folder holds the last finished phase.
    """
    from client.site import close_sites
    from server.app import run_federation
    from server.config import load_consortium

    logging.getLogger("flwr").propagate = False  # Opacus gives the root a handler: all lines twice
    place = _lay_out(folder, sites)
    nodes = {FIRST_NODE + index: hospital_node(place, index, sites) for index in range(sites)}
    agreed = load_consortium(folder / "consortium.yaml")
    agreed = agreed.model_copy(update={"run": folder.resolve() / "run.yaml"})
    close_sites()
    try:
        run_federation(MemoryGrid(nodes), agreed, resume)
    finally:
        close_sites()
