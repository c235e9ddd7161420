"""A relay that ends TLS with the consortium's own certificate and keeps every byte in clear.

It stands between one hospital's SuperNode and the gateway. What a hospital sends is thereby known
byte for byte, as the coordinator's gateway would see it. Only a test that owns the coordinator's
folder can do this.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay:
    """Listens on a free port of loopback and passes everything on.

    Args:
        upstream: host:port of the gateway.
        authority: the coordinator's folder of certificates.

    Attributes:
        address: host:port to call.
        sent: what came from the hospital, one content per connection.
        received: what went to it, likewise.
    """

    def __init__(self, upstream: str, authority: Path) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(authority / "server.crt", authority / "server.key")
        self._far = ssl.create_default_context(cafile=str(authority / "ca.crt"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.sent: list[bytearray] = []
        self.received: list[bytearray] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket, ssl=self._near)
        await self._ended.wait()
        server.close()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        sent, received = bytearray(), bytearray()
        self.sent.append(sent)
        self.received.append(received)
        host, port = self._upstream
        try:
            far, on = await asyncio.open_connection(host, port, ssl=self._far)
        except OSError:
            back.close()
            return
        ways = [
            asyncio.create_task(_pump(near, on, sent)),
            asyncio.create_task(_pump(far, back, received)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (on, back):
                writer.close()


async def _pump(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray
) -> None:
    """Pass bytes on until one side ends; they are kept before they go on."""
    with contextlib.suppress(OSError):
        while part := await source.read(65536):
            kept += part
            target.write(part)
            await target.drain()
