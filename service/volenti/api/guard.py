"""The HTTP protocol of one connection: what may reach the application, in which order, and how long a peer may take.

It leans on internals of uvicorn 0.54, hence the pin; tests/api/test_guard.py decides about every upgrade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar
from weakref import WeakSet

import structlog
from httptools import HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from volenti.api.problems import Problematic, body_of, headers_of

HEADERS = 64
HEAD_BYTES = 16 * 1024
URL_BYTES = 8 * 1024
QUEUED = 100
"""Requests that may wait behind an open one: a segment of pipelined ones takes about 85 times its size in memory."""

log = structlog.get_logger()


class Reading(Enum):
    """What the next byte of a connection belongs to."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


_NOTHING, _HEAD, _BODY = Reading


class Guard(HttpToolsProtocol):
    """uvicorn's protocol, less what a hostile peer can do with it.

    A head or an idle connection has a deadline; a body, and a peer that is to take an answer, must make progress. One sweep
    a second looks at all connections, so no request has a timer, not even uvicorn's own for keep-alive. A refusal takes
    its turn behind the answers that are open, and is written only where the application has not seen the request:
    else it might deny something that was committed.
    """

    HEAD_SECONDS: ClassVar[float] = 5
    PROGRESS_SECONDS: ClassVar[float] = 10
    SWEEP_SECONDS: ClassVar[float] = 1

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self._reading = _HEAD
        self._since = self._now = self.loop.time()
        self._bytes = 0
        """Bytes that came since the last part of a message was complete: llhttp holds what is incomplete in memory."""
        self._new = False
        """True while the segment is read that brought the newest request's head: the application has not run yet."""
        self._refusal: Problematic | None = None
        self._running: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        if self.server_state not in _swept:
            _swept.add(self.server_state)
            self.loop.call_later(self.SWEEP_SECONDS, _sweep, self.server_state, self.loop, self.SWEEP_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._now = self.loop.time()
        self._new = False
        self._segment = len(data)
        # Here and not in on_message_begin, which a lone CRLF never reaches. Half a head in the segment that completed a
        # request therefore counts as idle until its next byte: it holds the connection no longer than silence does.
        if self._reading is _NOTHING:
            self._reading, self._since, self._bytes = _HEAD, self._now, 0
        self._bytes += self._segment
        rest: bytes | memoryview = data
        while rest:
            try:
                self.parser.feed_data(rest)
                break
            except HttpParserUpgrade as upgrade:  # not wanted here: what follows is the next request
                rest = memoryview(rest)[upgrade.args[0] :]
            except HttpParserError as error:
                cause = error.__context__
                self._refuse(cause if isinstance(cause, Problematic) else _bad("malformed", "this is not HTTP"))
                return
        if self._bytes > HEAD_BYTES and self._reading is not _NOTHING:
            self._refuse(
                _too_long(self.url) if self._reading is _HEAD else _bad("malformed", "the body is all framing")
            )

    def _should_upgrade(self) -> bool:
        return False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not _BODY:  # else it is a trailer field
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADERS or len(self.url) > URL_BYTES:
            raise _too_long(self.url)
        if (self._bytes > HEAD_BYTES or self._segment > HEAD_BYTES) and _size(self.url, self.headers) > HEAD_BYTES:
            raise _too_long(self.url)  # most segments are shorter, and so is what they hold: no need to add it up
        _judge(self.parser.get_http_version(), self.headers, self.parser.should_upgrade())
        if len(self.pipeline) >= QUEUED:
            raise Problematic(429, "pipelined", "too many requests wait on this connection")
        super().on_headers_complete()
        self._reading, self._since, self._bytes, self._new = _BODY, self._now, 0, True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._running = cycle, task

    def on_body(self, body: bytes) -> None:
        self._bytes = 0
        if not self.cycle.response_complete:  # a body that nobody waits for gets no more time
            self._since = self._now
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading, self._since = _NOTHING, self._now
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._write_refusal(self._refusal)
        else:
            self.flow.resume_reading()

    def _refuse(self, problem: Problematic) -> None:
        """Read no more, finish the answers that are open, then answer with the problem and close."""
        log.info("refused", status=problem.status, error=problem.type)
        self._refusal = problem
        broken, self._reading = self._reading is _BODY, _NOTHING
        self.flow.pause_reading()
        if broken and self.pipeline:
            self.pipeline.popleft()  # the newest: it waits, so the application has not seen it
        elif broken and self._new and self._running is not None:
            self._running[1].cancel()  # a task that has not begun never will
            self._write_refusal(problem)
        elif broken:
            self.cycle.disconnected = True
            self.transport.close()
        elif not self._open():
            self._write_refusal(problem)

    def _write_refusal(self, problem: Problematic) -> None:
        body = body_of(problem)
        fields = {**headers_of(problem), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(STATUS_LINE[problem.status] + head.encode() + b"\r\n" + body)
        self.transport.close()

    def _open(self) -> bool:
        """True while the application owes an answer; requests that wait have not begun."""
        return self._running is not None and not self._running[0].response_complete

    def close_if_overdue(self, now: float) -> bool:
        """End the connection if its peer has taken too long; the wait for anything of our own does not count."""
        unsent = self.transport.get_write_buffer_size()
        ours = self.flow.read_paused or self.pipeline or (self._open() and self._reading is not _BODY)
        if unsent != self._unsent or (ours and not unsent):
            self._unsent, self._since = unsent, now
            return False
        if now - self._since <= self._patience(unsent):
            return False
        if unsent:  # a close would wait for the peer to take it
            self.transport.abort()
        else:
            self.transport.close()
        return True

    def _patience(self, unsent: int) -> float:
        if unsent or self._reading is _BODY:
            return self.PROGRESS_SECONDS
        return self.HEAD_SECONDS if self._reading is _HEAD else self.timeout_keep_alive


def _judge(version: str, headers: Sequence[tuple[bytes, bytes]], upgrade: bool) -> None:
    """Raise the problem of a head that two parsers could read in two ways. RFC 9112, sections 3.2, 6.1 and 6.3.

    llhttp refuses some of it already: a promise must not hang on a parser's default.
    """
    fields = dict(headers)
    if len(fields) < len(headers):  # the rare case: some field is there twice
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in (b"host", b"content-length", b"transfer-encoding")):
            raise _bad("repeated", "Host, Content-Length and Transfer-Encoding must not be repeated")
    if version != "1.1" and version != "1.0":
        raise _bad("version", "this server speaks HTTP/1.1")
    if b"host" not in fields and version == "1.1":
        raise _bad("host", "a request has a Host")
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is None and length is None:
        return
    if coding is not None and length is not None:
        raise _bad("framing", "a body has a Content-Length or a Transfer-Encoding, not both")
    if coding is not None and (version == "1.0" or coding.lower() != b"chunked"):
        raise _bad("framing", "the only transfer coding is chunked, in HTTP/1.1")
    if length is not None and not length.isdigit():
        raise _bad("framing", "Content-Length is a number")
    if upgrade:  # llhttp would take the body for the next request
        raise _bad("upgrade", "this server does not upgrade; send a body without Upgrade")


def _size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)


def _bad(type: str, detail: str) -> Problematic:  # noqa: A002 - the member's name
    return Problematic(400, type, detail)


def _too_long(url: bytes) -> Problematic:
    if len(url) > URL_BYTES:
        return Problematic(414, "url_too_long", f"a URL has up to {URL_BYTES} bytes")
    return Problematic(431, "head_too_large", f"a head has up to {HEADERS} fields and {HEAD_BYTES} bytes")


_swept: WeakSet[ServerState] = WeakSet()
"""The servers whose next sweep is due."""


def _sweep(state: ServerState, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Look at every connection now, and again after `seconds` for as long as there are any."""
    if not state.connections:
        _swept.discard(state)
        return
    loop.call_later(seconds, _sweep, state, loop, seconds)
    now = loop.time()
    late = sum(guard.close_if_overdue(now) for guard in tuple(state.connections) if isinstance(guard, Guard))
    if late:
        log.info("overdue", count=late)
