"""A real TLS server on loopback that answers like a gateway, for tests of the network part."""

from __future__ import annotations

import email.utils
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def gateway(
    authority: Path, *, ahead_s: float = 0.0, date: bool = True, status: int = 200, docs: int = 404
) -> Iterator[int]:
    """Serve /health and /docs with server.crt of a folder; yield the port.

    `ahead_s` puts the server's clock back, so that ours is ahead of it.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code = {"/health": status, "/docs": docs}.get(self.path, 404)
            self.send_response_only(code)
            if date:
                self.send_header("Date", email.utils.formatdate(time.time() - ahead_s, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.crt", authority / "server.key")
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
