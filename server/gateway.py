"""The one door that hospitals see: `/v1/fleet/*` and `/health`, everything else is not there.

Whoever reaches a SuperLink's port can start code on every hospital (flwr 1.41 has no login on its
Control API), so the SuperLink listens on loopback only and this gateway answers 404 to all that a
SuperNode does not need; never 401, at which a SuperNode would exit, nor 403, which it reads as the
end of the run. `nginx_text` is the same rule for nginx, the better choice where it is installed;
this small equivalent serves elsewhere. Both judge the path as it was sent, before anybody decodes
or shortens it, so a path cannot mean one thing here and another behind.
What crosses a hospital's boundary: nothing here; bytes pass unread.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from strategies.processes import split_address

FLEET = "/health|/v1/fleet/[a-z0-9]+([-_/][a-z0-9]+)*"
"""Raw paths that are forwarded. No dots and no escapes, so no path can be read in two ways."""

ALLOWED = re.compile(FLEET.encode())
METHODS = ("GET", "POST")

LARGEST_BODY = 16 * 2**20
"""Flower sends arrays in chunks of 5 MB."""

HOP = {
    *(b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"host"),
    *(b"proxy-connection", b"proxy-authorization", b"expect"),
}
"""Headers of one connection, not of the message (RFC 9110, section 7.6.1)."""

TIMEOUT_S = 300.0
MOST_CONNECTIONS = 512


class TooLarge(Exception):
    """A body that is sent in pieces has grown past `LARGEST_BODY`."""


class Forward:
    """Answers every request: passes on what is allowed, 404 for the rest, whatever the method."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        answer = await self._answer(request, bytes(scope.get("raw_path") or b""))
        await answer(scope, receive, send)

    async def _answer(self, request: Request, path: bytes) -> Response:
        if not ALLOWED.fullmatch(path) or request.method not in METHODS:
            return Response(status_code=404)
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > LARGEST_BODY:
            return Response(status_code=413)
        try:
            reply = await self.client.send(self._build(request, path), stream=True)
        except TooLarge:
            return Response(status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)
        except httpx.HTTPError:
            return Response(status_code=502)
        answer = StreamingResponse(_body(reply), status_code=reply.status_code)
        answer.raw_headers = [(k, v) for k, v in reply.headers.raw if k.lower() not in HOP]
        return answer

    def _build(self, request: Request, path: bytes) -> httpx.Request:
        headers = [(k, v) for k, v in request.headers.raw if k.lower() not in HOP]
        url = httpx.URL(path.decode("ascii"), query=request.scope["query_string"] or None)
        return self.client.build_request(
            request.method, url, headers=headers, content=_measured(request)
        )


async def _measured(request: Request) -> AsyncIterator[bytes]:
    taken = 0
    async for part in request.stream():
        taken += len(part)
        if taken > LARGEST_BODY:
            raise TooLarge
        yield part


async def _body(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in reply.aiter_raw():
            yield part
    finally:
        await reply.aclose()


def gateway_app(upstream: str, authority: Path) -> Starlette:
    """Return the gateway as an ASGI app.

    Args:
        upstream: host:port of the SuperLink, on loopback.
        authority: certificate that the SuperLink's own is checked against.
    """
    context = ssl.create_default_context(cafile=str(authority))
    limits = httpx.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=64)
    client = httpx.AsyncClient(
        base_url=f"https://{upstream}",
        verify=context,
        timeout=TIMEOUT_S,
        trust_env=False,
        limits=limits,
    )
    client.headers.clear()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    return Starlette(routes=[Route("/{path:path}", Forward(client))], lifespan=lifespan)


def serve_gateway(listen: str, upstream: str, folder: Path) -> None:
    """Serve until SIGTERM.

    Args:
        listen: host:port that sites reach.
        upstream: host:port of the SuperLink.
        folder: holds ca.crt, server.crt and server.key.
    """
    host, port = split_address(listen)
    uvicorn.run(
        gateway_app(upstream, folder / "ca.crt"),
        host=host,
        port=port,
        ssl_certfile=str(folder / "server.crt"),
        ssl_keyfile=str(folder / "server.key"),
        log_level="warning",
        server_header=False,
        date_header=False,
        access_log=False,
        ws="none",
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )


def nginx_text(listen: str, upstream: str, folder: Path, work: Path) -> str:
    """Return an nginx configuration with the same rule.

    Args:
        listen: host:port that sites reach.
        upstream: host:port of the SuperLink.
        folder: holds ca.crt, server.crt and server.key.
        work: folder that nginx may write to (its pid, temporary bodies, error log).
    """
    return f"""\
# Written by mfm-server. Hospitals reach /v1/fleet/* and /health, everything else is not there.
daemon off;
worker_processes 1;
pid "{work}/nginx.pid";
error_log "{work}/error.log" warn;
events {{ worker_connections {2 * MOST_CONNECTIONS}; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path "{work}/body";
  proxy_temp_path "{work}/proxy";
  fastcgi_temp_path "{work}/fastcgi";
  uwsgi_temp_path "{work}/uwsgi";
  scgi_temp_path "{work}/scgi";
  upstream superlink {{ server {upstream}; keepalive 16; }}
  server {{
    listen {listen} ssl;
    ssl_certificate "{folder}/server.crt";
    ssl_certificate_key "{folder}/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size {LARGEST_BODY // 2**20}m;
    # HTTP/0.9 has no version and ends its path at a bare line feed.
    if ($server_protocol !~ "^HTTP/1[.][01]$") {{ return 404; }}
    # The path as it was sent: no escape, dot or doubled slash can mean something else behind.
    if ($request_uri !~ "^({FLEET})([?]|$)") {{ return 404; }}
    if ($request_method !~ "^({"|".join(METHODS)})$") {{ return 404; }}
    location ~ "^({FLEET})$" {{
      proxy_pass https://superlink;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate "{folder}/ca.crt";
      proxy_ssl_name localhost;
      proxy_next_upstream off;
      proxy_read_timeout {TIMEOUT_S:.0f}s;
      proxy_send_timeout {TIMEOUT_S:.0f}s;
      proxy_request_buffering off;
    }}
    location / {{ return 404; }}
  }}
}}
"""


def main() -> None:
    """Serve LISTEN UPSTREAM FOLDER, as `server.superlink` starts it."""
    listen, upstream, folder = sys.argv[1:]
    serve_gateway(listen, upstream, Path(folder))


if __name__ == "__main__":
    main()
