"""A proxy that speaks PostgreSQL's framing and breaks connections on purpose, at the instant that a test names.

It stands between the service and the server's socket. Faults are set while it runs and may be limited to connections of
one `application_name`. The append is one autocommitted statement: its Sync commits. So a cut *before* that Sync is
forwarded means "not written", and a cut *after* it, before the answer, means "written and never told".
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Fault = Literal[
    "none",
    "latency",
    "black_hole",
    "reset",
    "cut_after_bytes",
    "cut_before_sync",
    "cut_after_sync",
    "freeze_answers",
    "freeze_requests",
]

_HEADER = struct.Struct("!cI")
_PROTOCOL_3 = 196608
_AWAITED = (b"S", b"H", b"Q")
"""Sync, Flush, Query: after these a client waits."""
_READY = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery outside a transaction: what follows COMMIT."""


@dataclass
class Plan:
    """What happens to connections of `application` (empty: all). A cut happens `times` times and then no more (-1: always).

    `latency` and `freeze_requests` hold a request back once, where the client begins to wait for its answer: an append is
    executed by then, holds its lock, and is not committed. A freeze is a latency that is longer than anybody waits. `jitter` is added to `seconds` or taken from it, at random.
    """

    fault: Fault = "none"
    application: str = ""
    statement: bytes = b"ledger_append"
    seconds: float = 0.0
    jitter: float = 0.0
    byte_count: int = 0
    """Of all that a connection answered, or with `appends` of the answer to an append."""
    appends: bool = False
    times: int = -1
    hits: int = 0

    def takes(self, application: str) -> bool:
        return self.fault != "none" and self.times != 0 and self.application in ("", application)

    def hit(self) -> None:
        self.hits += 1
        if self.times > 0:
            self.times -= 1


@dataclass
class Proxy:
    """A running proxy. `folder` is the socket directory that the service is pointed at."""

    folder: Path
    target: Path
    plan: Plan = field(default_factory=Plan)
    _connections: set[_Connection] = field(default_factory=set)

    def url(self, role: str, database: str = "volenti") -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}&port=5432"

    async def accept(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_unix_connection(str(self.target / ".s.PGSQL.5432"))
        except OSError:
            client.close()
            return
        connection = _Connection(self, client_reader, client, server_reader, server)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def cut_all(self) -> None:
        """Reset every connection that is open now."""
        for connection in list(self._connections):
            connection.cut()


class _Connection:
    """One client and its server. Requests are forwarded message by message, answers as they come."""

    def __init__(
        self,
        proxy: Proxy,
        client_reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self.proxy, self.application = proxy, ""
        self.client_reader, self.client, self.server_reader, self.server = client_reader, client, server_reader, server
        self._appending: set[bytes] = set()  # names of prepared statements that append
        self._armed = False  # the pipeline up to the next Sync executes an append
        self._swallow = False
        self._answered = 0
        self._appended = False  # what is answered now is an append's

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.cut()
            for writer in (self.client, self.server):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()

    @property
    def _plan(self) -> Plan | None:
        return self.proxy.plan if self.proxy.plan.takes(self.application) else None

    async def _hold(self, plan: Plan) -> None:
        """Wait as long as the plan says, or until it is lifted. Who waited for the answer may be gone by then."""
        plan.hit()
        loop = asyncio.get_running_loop()
        end = loop.time() + max(0.0, plan.seconds + random.uniform(-plan.jitter, plan.jitter))
        while self.proxy.plan is plan and (left := end - loop.time()) > 0:  # noqa: ASYNC110 - the plan is set by another thread
            await asyncio.sleep(min(left, 0.05))

    async def _requests(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._start_up()
            while True:
                head = await self.client_reader.readexactly(5)
                kind, length = _HEADER.unpack(head)
                body = await self.client_reader.readexactly(length - 4)
                self._notice(kind, body)
                if not await self._forward(kind, head + body):
                    return

    async def _start_up(self) -> None:
        while True:
            head = await self.client_reader.readexactly(4)
            body = await self.client_reader.readexactly(struct.unpack("!I", head)[0] - 4)
            self.server.write(head + body)
            await self.server.drain()
            if struct.unpack("!I", body[:4])[0] == _PROTOCOL_3:
                words = body[4:].split(b"\0")
                settings = dict(zip(words[::2], words[1::2], strict=False))
                self.application = settings.get(b"application_name", b"").decode()
                return

    def _notice(self, kind: bytes, body: bytes) -> None:
        """Remember which prepared statements append, and whether this pipeline executes one."""
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            if self.proxy.plan.statement in rest.partition(b"\0")[0]:
                self._appending.add(name)
            else:
                self._appending.discard(name)
        elif kind == b"B":
            _, _, rest = body.partition(b"\0")
            self._armed = rest.partition(b"\0")[0] in self._appending

    async def _forward(self, kind: bytes, message: bytes) -> bool:
        plan = self._plan
        if plan is not None and plan.fault in ("latency", "freeze_requests") and kind in _AWAITED:
            await self._hold(plan)
        if kind == b"S":
            self._appended, self._armed, armed = self._armed, False, self._armed
        if plan is not None and kind == b"S" and armed:
            if plan.fault == "cut_before_sync":
                plan.hit()
                return False
            if plan.fault == "cut_after_sync":
                plan.hit()
                self._swallow = True  # the server commits and answers; nobody hears it
        if plan is not None and plan.fault == "reset":
            plan.hit()
            return False
        if plan is not None and plan.fault == "black_hole":
            plan.hit()
            return True
        if kind == b"S" and plan is not None and plan.appends:
            self._answered = 0
        self.server.write(message)
        await self.server.drain()
        return True

    async def _answers(self) -> None:
        unheard = b""
        with contextlib.suppress(OSError):
            while data := await self.server_reader.read(65536):
                if self._swallow:
                    unheard = (unheard + data)[-len(_READY) :]
                    if unheard == _READY:
                        return  # executed and committed; cut now
                    continue
                plan = self._plan
                if plan is not None and plan.fault == "freeze_answers":
                    await self._hold(plan)
                if plan is not None and plan.fault == "black_hole":
                    continue
                if plan is not None and plan.fault == "cut_after_bytes" and self._appended >= plan.appends:
                    left = plan.byte_count - self._answered
                    if len(data) >= left:
                        plan.hit()
                        self.client.write(data[: max(left, 0)])
                        await self.client.drain()
                        return
                self._answered += len(data)
                self.client.write(data)
                await self.client.drain()


@asynccontextmanager
async def proxied(target: Path, folder: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of the server whose socket lies in `target`, listening on a socket in `folder`."""
    proxy = Proxy(folder, target)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything runs
    server = await asyncio.start_unix_server(proxy.accept, path=str(folder / ".s.PGSQL.5432"))
    try:
        yield proxy
    finally:
        server.close()
        deadline = asyncio.get_running_loop().time() + 5
        while proxy._connections and asyncio.get_running_loop().time() < deadline:
            proxy.cut_all()
            await asyncio.sleep(0.01)


@contextmanager
def proxied_aside(target: Path, folder: Path) -> Iterator[Proxy]:
    """The same in a thread of its own, for processes that are started by a test which then blocks. Only `plan` may be set."""
    up, stop = threading.Event(), threading.Event()
    running: list[Proxy] = []

    async def run() -> None:
        async with proxied(target, folder) as proxy:
            running.append(proxy)
            up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert up.wait(10), "the proxy did not come up"
        yield running[0]
    finally:
        stop.set()
        thread.join(10)
