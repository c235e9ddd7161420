"""What we rely on of Flower's private interfaces: it must still be there, and mean the same.

The whole path, over a real SuperLink and SuperNode, is run in tests/federation.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import threading

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import context_to_proto, fab_to_proto, message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullTaskInputRequest,
    PullTaskInputResponse,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp

from client import tasks
from client.tasks import ACQUIRE, FIRST_WAIT_S, LONGEST_WAIT_S


def test_the_version_is_the_one_that_was_studied() -> None:
    assert importlib.metadata.version("flwr").startswith("1.41.")


def test_the_calls_take_what_we_give_them() -> None:
    pushed = inspect.signature(run_clientapp.push_message)
    assert list(pushed.parameters) == ["client", "message", "context"]
    ended = inspect.signature(run_clientapp.push_task_output)
    assert list(ended.parameters) == ["client", "context", "sub_status", "details"]
    connect = inspect.signature(RuntimeHttpClient.from_server_address).parameters
    needed = {"server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"}
    assert needed <= set(connect)


def test_a_task_is_pulled_as_flower_pulls_it() -> None:
    ours, theirs = (inspect.getsource(f) for f in (tasks._pull, run_clientapp.pull_task_input))
    steps = (
        "PullTaskInput(PullTaskInputRequest())", "PullMessages(", "TaskIdentity.task_id",
        "TaskIdentity.run_id", "TaskIdentity.node_id", "context_from_proto", "fab_from_proto",
        "pull_and_inflate_object_from_tree", "client.ConfirmMessageReceived", "client.PullObject",
        'metadata.__dict__["_message_id"]',
    )  # fmt: skip
    assert [step for step in steps if step not in ours or step not in theirs] == []
    waits = inspect.signature(pull_and_inflate_object_from_tree).parameters
    assert waits["initial_backoff"].default > 10 * FIRST_WAIT_S
    assert waits["backoff_cap"].default > 10 * LONGEST_WAIT_S
    assert {"max_tries_per_object", "return_type"} <= set(waits)


class SlowNode:
    """A SuperNode that offers a task and is still fetching its message."""

    def __init__(self, looks: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._message = Message(RecordDict({"header": ConfigRecord({"kind": "train"})}), 5, "train")
        self._message.metadata.__dict__["_message_id"] = self._message.object_id
        self._missing, self.confirmed = looks, 0

    def PullTaskInput(self, request: PullTaskInputRequest) -> PullTaskInputResponse:
        context = Context(1, 5, {}, RecordDict(), {})
        fab = Fab("f" * 64, b"code", {})
        return PullTaskInputResponse(
            context=context_to_proto(context), fab=fab_to_proto(fab), task_id=9
        )

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        proto = message_to_proto(remove_content_from_message(self._message))
        return PullAppMessagesResponse(
            messages_list=[proto], message_object_trees=[get_object_tree(self._message)]
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        self._missing -= 1
        part = b""
        if self._missing < 0:
            part = get_all_nested_objects(self._message)[request.object_id].deflate()
        return PullObjectResponse(
            object_found=True, object_available=bool(part), object_content=part
        )

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        self.confirmed += 1
        return ConfirmMessageReceivedResponse()


def test_parts_that_are_still_fetched_are_looked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower's own waits a second, then two; its pauses vary by a fifth."""
    pauses: list[float] = []
    wait = threading.Event.wait

    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        pauses.extend([timeout] if timeout else [])
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", noted)
    node = SlowNode(looks=4)
    task = tasks._pull(node)  # type: ignore[arg-type]  # what of a SuperNode is asked here
    assert min(pauses) <= 1.2 * FIRST_WAIT_S and max(pauses) <= 1.2 * LONGEST_WAIT_S
    assert task.message.content.config_records["header"]["kind"] == "train"
    assert task.bundle_hash == "f" * 64 and task.context.node_id == 5 and node.confirmed == 1
    assert TaskIdentity.task_id == 9
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def test_only_client_apps_are_taken_and_the_request_for_them_is_signed() -> None:
    assert tasks.TaskType is TaskType and TaskType.CLIENT_APP == "flwr-clientapp"
    source = inspect.getsource(RuntimeHttpClient.AcquireTask)
    assert all(method in source for method in ACQUIRE)
