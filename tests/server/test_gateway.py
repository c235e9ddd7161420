"""The gateway passes on `/v1/fleet/*` and `/health` and shows nothing else.

Here against a stand-in behind it; `test_supervisor.py` has both gateways before a real SuperLink.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.gateway import FLEET, LARGEST_BODY, Forward, nginx_text

PASSED = ("/health", "/v1/fleet/pull-messages", "/v1/fleet/send-node-heartbeat")
HIDDEN = (
    *("/", "/docs", "/openapi.json", "/redoc", "/metrics", "/v1", "/v1/fleet", "/v1/fleet/"),
    *("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task"),
    *("/v1/fleet/../control/list-runs", "/v1/fleet/./../control/list-runs"),
    *("/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol/list-runs"),
    *("/v1/fleet/..%5ccontrol", "/v1/fleet\\..\\control", "/v1/fleet/a%00", "/v1/fleet/a;b"),
    *("//v1/control/list-runs", "/v1//fleet/x", "/v1/control/../fleet/x", "/%76%31/control/x"),
    *("/health/", "/health/../v1/control/list-runs", "/healthz", "/V1/FLEET/x", "/v1/fleet/x/"),
    *("/v1/fleet/x\n", "/health\n", "*", "", "http://h/v1/control/x"),
)


async def echo(request: Request) -> Response:
    body = await request.body()
    names = ",".join(sorted(request.headers))
    text = f"{request.method} {request.scope['raw_path'].decode()}?{request.url.query} "
    return Response(f"{text}{len(body)}", headers={"x-names": names, "connection": "close"})


def upstream() -> httpx.AsyncClient:
    everything = Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "DELETE", "HEAD"])
    transport = httpx.ASGITransport(Starlette(routes=[everything]))
    client = httpx.AsyncClient(transport=transport, base_url="http://superlink")
    client.headers.clear()
    return client


def ask(
    path: str,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    parts: Iterable[bytes] = (b"",),
    client: httpx.AsyncClient | None = None,
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Return status, body and headers of one request, its path sent as it is."""
    sent: list[dict[str, Any]] = []
    pieces = list(parts)

    async def receive() -> dict[str, Any]:
        part = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": part, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": list(headers),
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }
    asyncio.run(Forward(client or upstream())(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body, dict(sent[0]["headers"])


@pytest.mark.parametrize("path", PASSED)
def test_what_a_node_needs_is_passed_on_unread(path: str) -> None:
    parts = [b"a" * 1000, b"b" * 500]
    assert ask(f"{path}?x=1", "POST", parts=parts)[:2] == (200, f"POST {path}?x=1 1500".encode())


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_is_not_there(path: str, method: str) -> None:
    assert ask(path, method)[0] == 404


@pytest.mark.parametrize("path", HIDDEN)
def test_nginx_has_the_same_rule(path: str) -> None:
    """The expression for nginx's $request_uri; an absolute target loses its host there."""
    found = re.search(r'\$request_uri !~ "(.*)"\)', nginx_text("a:1", "b:2", Path(), Path()))
    assert found is not None
    if not path.endswith("\n"):  # no request line holds one
        assert not re.search(found[1], path)
    assert re.search(found[1], "/v1/fleet/pull-messages?x=/../y")


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT"]
)
def test_other_methods_are_not_there(method: str) -> None:
    assert ask("/health", method)[0] == 404


def test_headers_of_the_connection_stay_behind() -> None:
    headers = [
        *((b"host", b"hospital"), (b"upgrade", b"websocket"), (b"x-node", b"1")),
        *((b"transfer-encoding", b"chunked"), (b"expect", b"100-continue")),
    ]
    status, _, answered = ask("/health", headers=headers)
    names = answered[b"x-names"].decode().split(",")
    assert status == 200 and "x-node" in names
    assert not {"upgrade", "expect", "accept-encoding"} & set(names)
    assert b"connection" not in answered


def test_too_large_a_body_is_refused_whether_declared_or_not() -> None:
    declared = [(b"content-length", str(LARGEST_BODY + 1).encode())]
    assert ask("/v1/fleet/push-object", "POST", declared)[0] == 413
    for wrong in (b"-1", b"1e9", b"x"):
        assert ask("/v1/fleet/push-object", "POST", [(b"content-length", wrong)])[0] == 413
    piece = bytes(2**20)
    assert ask("/v1/fleet/push-object", "POST", parts=[piece] * 17)[0] == 413
    assert ask("/v1/fleet/push-object", "POST", parts=[piece] * 6)[0] == 200


def test_a_superlink_that_is_away_is_502_at_which_nodes_try_again() -> None:
    client = httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False)
    assert ask("/health", client=client)[0] == 502


def test_the_rule_names_no_dots_and_no_escapes() -> None:
    assert not set("%.\\;") & set(FLEET.replace("\\", ""))
