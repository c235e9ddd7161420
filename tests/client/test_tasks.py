"""What we rely on of Flower's private interfaces: it must still be there, and mean the same.

The whole path, over a real SuperLink and SuperNode, is run in tests/federation.
"""

from __future__ import annotations

import importlib.metadata
import inspect

from flwr.supercore.constant import TaskType
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp

from client import tasks
from client.tasks import ACQUIRE


def test_the_version_is_the_one_that_was_studied() -> None:
    assert importlib.metadata.version("flwr").startswith("1.41.")


def test_the_calls_take_what_we_give_them() -> None:
    pulled = inspect.signature(run_clientapp.pull_task_input)
    assert list(pulled.parameters) == ["client"]
    pushed = inspect.signature(run_clientapp.push_message)
    assert list(pushed.parameters) == ["client", "message", "context"]
    ended = inspect.signature(run_clientapp.push_task_output)
    assert list(ended.parameters) == ["client", "context", "sub_status", "details"]
    connect = inspect.signature(RuntimeHttpClient.from_server_address).parameters
    needed = {"server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"}
    assert needed <= set(connect)


def test_only_client_apps_are_taken_and_the_request_for_them_is_signed() -> None:
    assert tasks.TaskType is TaskType and TaskType.CLIENT_APP == "flwr-clientapp"
    source = inspect.getsource(RuntimeHttpClient.AcquireTask)
    assert all(method in source for method in ACQUIRE)
