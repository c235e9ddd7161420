"""Tasks of a SuperNode, taken through Flower's own runtime client (flwr 1.41, private interfaces).

Everything of Flower that is not part of its public API is in this file, `client.supernode`,
`strategies.bundle` and `strategies.looking`, pinned to one version and covered by contract tests. A
task is one message to this site.
What crosses the hospital's boundary: the reply that `give_back` is handed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, fab_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.5
"""Between two looks for a part of a message that the SuperNode is still fetching."""


@dataclass
class Task:
    """One message that waits for this site.

    Attributes:
        message: what the server sent.
        context: Flower's context of this node in the run.
        bundle_hash: SHA-256 (hex) of the app bundle that the server wants to run.
    """

    message: Message
    context: Context
    bundle_hash: str
    _client: RuntimeHttpClient

    def give_back(self, reply: Message) -> None:
        """Hand the reply to the SuperNode, which sends it."""
        push_message(self._client, reply, self.context)
        push_task_output(self._client, self.context, SubStatus.COMPLETED, "")


class Tasks:
    """The SuperNode's queue of tasks for this site.

    Only tasks for a ClientApp are taken: an agent or a connector that a run may ask for never
    starts here.
    """

    def __init__(self, address: str, secret: Path) -> None:
        self._address = address
        self._queue = self._connect(
            SuperExecAuthHttpInterceptor(
                master_secret=secret.read_bytes(), protected_methods=set(ACQUIRE)
            )
        )

    @contextlib.contextmanager
    def next(self) -> Iterator[Task | None]:
        """Hold the oldest waiting task, kept alive while held; None when nothing waits."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        found = self._queue.AcquireTask(request)
        if not found.HasField("task") or not found.token:
            yield None
            return
        client = self._connect(RuntimeTokenHttpInterceptor(found.token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        try:
            yield _pull(client)
        finally:
            heartbeat.stop()
            client.close()

    def close(self) -> None:
        """Close the connection to the SuperNode."""
        self._queue.close()

    def _connect(self, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # loopback, between two processes of one hospital
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                interceptor,
            ],
            retry_invoker=make_simple_http_retry_invoker(),
        )


def _pull(client: RuntimeHttpClient) -> Task:
    """Return the task that a client has a token for.

    As Flower's own `pull_task_input`, which waits one second, then two, for each part of a message
    that the SuperNode has not fetched yet; it offers a task before it fetches.
    """
    found = client.PullTaskInput(PullTaskInputRequest())
    context, fab = context_from_proto(found.context), fab_from_proto(found.fab)
    TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
    TaskIdentity.node_id = context.node_id
    pulled = client.PullMessages(PullAppMessagesRequest())
    if not pulled.messages_list:
        raise RuntimeError("the SuperNode offered a task without its message")
    node, tree = Node(node_id=context.node_id), pulled.message_object_trees[0]
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
        make_confirm_message_received_fn_protobuf(
            client.ConfirmMessageReceived, node, context.run_id
        ),
        return_type=Message,
        max_tries_per_object=None,
        initial_backoff=FIRST_WAIT_S,
        backoff_cap=LONGEST_WAIT_S,
    )
    message.metadata.__dict__["_message_id"] = tree.object_id  # it is not in the object itself
    return Task(message, context, fab.hash_str, client)


REACH_ERRORS = (httpx.HTTPError, OSError)
"""What a call raises when the SuperNode is not there."""
