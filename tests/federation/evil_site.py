"""A hostile site: a real SuperNode with a real key, whose runner lies after its own outbox.

`python -m tests.federation.evil_site FOLDER` is `mfm-client start FOLDER` with another runner. The
runner reads FOLDER/script.json anew for every message: step to act, "otherwise" for all the rest.
An act is the name of a lie (`lies`), or one of `ACTS` below.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client import node, runner
from client.folder import Folder, open_folder
from client.keys import read_key
from client.kit import read_kit
from client.supervisor import Program
from client.tasks import Task
from strategies.rounds import REFUSED
from strategies.wire import HEADER, arrays_of
from tests.federation.lies import LIES
from tests.strategies.records import with_array, with_header

HONEST_SITE = "north"
PATIENT = "Anna Karenina 1877-04-02"
"""Stands for a patient in what must never be repeated by the coordinator."""

log = logging.getLogger("mfm.node")


class EvilRunner(runner.Runner):
    """Answers as the real runner does, then does what the script says with the answer."""

    folder: Folder
    kept: RecordDict | None = None

    def answer(self, task: Task) -> Message:
        """Return the reply that leaves."""
        act = act_for(task.message, self.folder)
        log.info("act: %s", act)
        reply = super().answer(task)
        if self.kept is None and task.message.metadata.message_type == "train":
            self.kept = None if reply.has_error() else reply.content
        if reply.has_error():
            return reply
        if act in LIES:
            return Message(LIES[act].alter(reply.content, HONEST_SITE), reply_to=task.message)
        return ACTS.get(act, _honest)(self, task, reply)


def act_for(message: Message, folder: Folder) -> str:
    """Return what the script says for a message."""
    script = json.loads((folder.root / "script.json").read_text(encoding="utf-8"))
    kind = message.metadata.message_type.removeprefix("query.")
    number = message.metadata.group_id if kind == "train" else ""
    return str(script.get(f"{kind} {number}".strip(), script["otherwise"]))


def _honest(site: EvilRunner, task: Task, reply: Message) -> Message:
    return reply


def _nonsense(site: EvilRunner, task: Task, reply: Message) -> Message:
    return Message(RecordDict({"hello": ConfigRecord({"name": PATIENT})}), reply_to=task.message)


def _replay(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Send an earlier reply of its own again, byte for byte."""
    assert site.kept is not None
    return Message(site.kept, reply_to=task.message)


def _babble(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Put a patient's name where a coded word belongs."""
    return Message(Error(REFUSED, PATIENT), reply_to=task.message)


def _unknown_code(site: EvilRunner, task: Task, reply: Message) -> Message:
    return Message(Error(4711, PATIENT), reply_to=task.message)


def _late(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Keep a true reply until the folder holds a file `go`."""
    while not (site.folder.root / "go").exists():
        time.sleep(0.1)
    return reply


def _twice(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Send a broken reply around the SuperNode, then let the true one follow."""
    broken = Message(LIES["nan"].alter(reply.content, HONEST_SITE), reply_to=task.message)
    push_directly(site.folder, broken)
    return reply


def _true_twice(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Send a true reply around the SuperNode, then one that claims ten times the images."""
    push_directly(site.folder, Message(reply.content, reply_to=task.message))
    images = int(str(reply.content.config_records[HEADER]["num_images"]))
    return Message(with_header(reply.content, num_images=10 * images), reply_to=task.message)


def _tampered(site: EvilRunner, task: Task, reply: Message) -> Message:
    """Turn one bit of the largest array over, after it was sealed."""
    arrays = arrays_of(reply.content)
    name = max(arrays, key=lambda key: len(arrays[key]))
    data = bytes([arrays[name][0] ^ 1]) + arrays[name][1:]
    return Message(with_array(reply.content, name, data, seal=False), reply_to=task.message)


ACTS: Mapping[str, Callable[[EvilRunner, Task, Message], Message]] = {
    "honest": _honest,
    "nonsense": _nonsense,
    "replay": _replay,
    "babble": _babble,
    "unknown code": _unknown_code,
    "late": _late,
    "tampered": _tampered,
    "twice, the first broken": _twice,
    "twice, both true": _true_twice,
}


def push_directly(folder: Folder, reply: Message) -> None:
    """Hand a reply to the SuperLink with the site's own key, past its SuperNode."""
    reply.metadata.__dict__["_message_id"] = reply.object_id
    whole = get_all_nested_objects(reply)
    sender, run = Node(node_id=reply.metadata.src_node_id), reply.metadata.run_id
    with fleet(folder) as client:
        taken = client.PushMessages(
            PushMessagesRequest(
                node=sender,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[1.0],
            )
        )
        push_objects(
            whole,
            make_push_object_fn_protobuf(client.PushObject, sender, run, taken.session_id),
            object_ids_to_push=set(taken.objects_to_push),
        )
    log.info("pushed around the SuperNode")


def fleet(folder: Folder) -> FleetHttpClient:
    """Return a client of the SuperLink's fleet interface that signs with the site's key."""
    key = read_key(folder)
    return FleetHttpClient.from_server_address(
        read_kit(folder.kit).address,
        False,
        folder.authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )


def evil_programs(
    folder: Folder, address: str, around: Mapping[str, str], health: str | None = None
) -> tuple[Program, ...]:
    """Return the programs of a node, the runner replaced."""
    supernode, own = _programs(folder, address, around, health)
    words = tuple("tests.federation.evil_site" if w == "client.runner" else w for w in own.command)
    return supernode, replace(own, command=words)


_programs = node.programs


def main(arguments: list[str]) -> None:
    """Be the node of a folder, or with three arguments its runner."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if len(arguments) == 1:
        node.programs = evil_programs
        node.run_node(open_folder(Path(arguments[0])))
        return
    EvilRunner.folder = open_folder(Path(arguments[0]).parent)
    runner.Runner = EvilRunner  # type: ignore[misc]
    runner.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
