"""Keep-alive connections that ask as fast as they are answered: the least that speaks HTTP/1.1, so that the client is not what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

_HEAD_ENDS = b"\r\n\r\n"
_LENGTH = b"content-length: "


class _Connection(asyncio.Protocol):
    """One request in flight at a time; the next one when the whole answer is there."""

    def __init__(self, requests: Iterator[bytes], until: float, status: int) -> None:
        self._requests = requests
        self._until = until
        self._expected = f"HTTP/1.1 {status} ".encode()
        self._buffer = b""
        self._transport: Any = None  # uvloop's is no asyncio.Transport
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(_HEAD_ENDS)
        if head < 0:
            return
        at = self._buffer.lower().find(_LENGTH, 0, head)
        if at < 0:
            self._fail(f"an answer without a length: {self._buffer[:200]!r}")
            return
        length = int(self._buffer[at + len(_LENGTH) : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < head + len(_HEAD_ENDS) + length:
            return
        if not self._buffer.startswith(self._expected):
            self._fail(f"not the expected answer: {self._buffer[:600]!r}")
            return
        self._buffer = b""
        self._count += 1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the connection ended: {exc}"))

    def _ask(self) -> None:
        request = next(self._requests, None) if time.perf_counter() < self._until else None
        if request is None:
            self.done.set_result(self._count)
            self._transport.close()
        else:
            self._transport.write(request)

    def _fail(self, why: str) -> None:
        self.done.set_exception(AssertionError(why))
        self._transport.close()


async def ask(
    port: int, requests: Iterator[bytes], *, connections: int, seconds: float, status: int
) -> tuple[int, float]:
    """Send requests over so many connections until the time or the requests are over; gives how many were answered, and in how many seconds.

    Raises AssertionError for an answer of another status, ConnectionError for a connection that ends.
    """
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    opened = [
        (await loop.create_connection(lambda: _Connection(requests, begun + seconds, status), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    counts = await asyncio.gather(*(connection.done for connection in opened))
    return sum(counts), time.perf_counter() - begun


def post(port: int, path: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST with a JSON body."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + _HEAD_ENDS + body
