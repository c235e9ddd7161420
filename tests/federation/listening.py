"""Small servers of a test's own: what a listener does with each connection runs in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Listening:
    """Accepts on a free port from entering to leaving; `serve` says what becomes of a connection.

    Args:
        host: address to listen on.

    Attributes:
        address: host:port.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, 0))
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def serve(self, near: socket.socket) -> None:
        """Do with one connection what this listener is for; it is not closed afterwards."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(near,), daemon=True).start()

    def _serve_one(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(near)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on until one end closes."""
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
