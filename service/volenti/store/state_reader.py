"""Reads together: callers that ask while a statement runs share the next one, so that misses do not queue for connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from volenti.errors import Unavailable, VolentiError
from volenti.store import data_subjects
from volenti.store.data_subjects import Ground, StoredState
from volenti.store.database import Database

READ_SECONDS = 2.0
"""How long one statement may take, with a connection for it: a check waits for less, and all that came meanwhile wait behind it."""
READ_TOGETHER = 256
"""How many callers one statement reads for at most."""

Read: TypeAlias = tuple[Ground, dict[bytes, StoredState]]


@dataclass
class _Lane:
    """Who waits to be read in one workspace. Owned by the event loop: no await between a read and a write of it."""

    queue: deque[tuple[tuple[bytes, ...], asyncio.Future[Read]]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """Raise Unavailable after READ_SECONDS: the next statement takes another connection, which may be a living one."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError as error:
        raise Unavailable("the database does not answer in time") from error


class StateReader:
    """Reads states by blind index. The statement that answers a caller is sent after the call: it sees every commit before it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes: dict[UUID, _Lane] = {}

    async def read(self, workspace_id: UUID, indexes: tuple[bytes, ...]) -> Read:
        """The ground, and the states of those who are known, of this caller and perhaps of others.

        Raises NotFound if the workspace has no ledger, Unavailable without a database. A cancelled caller cancels nothing.
        """
        lane = self._lanes.setdefault(workspace_id, _Lane())
        future: asyncio.Future[Read] = asyncio.get_running_loop().create_future()
        lane.queue.append((indexes, future))
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(workspace_id, lane))
        return await future

    async def _drain(self, workspace_id: UUID, lane: _Lane) -> None:
        batch: list[tuple[tuple[bytes, ...], asyncio.Future[Read]]] = []
        try:
            while lane.queue:
                async with (
                    _in_time(),
                    self._database.connection("volenti_app") as connection,  # given back each time: all share them
                ):
                    batch = [lane.queue.popleft() for _ in range(min(len(lane.queue), READ_TOGETHER))]
                    wanted = list({index for indexes, _ in batch for index in indexes})
                    read = await data_subjects.find(connection, workspace_id, wanted)
                for _, future in batch:
                    if not future.done():
                        future.set_result(read)
        except BaseException as error:
            reason = error if isinstance(error, VolentiError) else Unavailable("the read was interrupted; try again")
            for _, future in (*batch, *lane.queue):
                if not future.done():
                    future.set_exception(reason)
            lane.queue.clear()
            if not isinstance(error, VolentiError):
                raise
        finally:
            lane.task = None
