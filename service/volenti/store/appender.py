"""Group commit: what queued while the last commit ran is the next batch; each waiter is answered after COMMIT."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
import msgspec

from volenti.errors import Invalid, LedgerDamaged, Unavailable, VolentiError
from volenti.store import ledger
from volenti.store.database import BUSY, LOST, Connection, Database
from volenti.store.journal import Journal
from volenti.store.ledger import Item, ItemResult

BATCH_ENTRIES = 512
BATCH_BYTES = 4 << 20
QUEUE_ENTRIES = 4096
ANSWER_SECONDS = 10.0
"""How long a caller waits: after that it is told that the outcome is unknown and may retry with the same key."""


class Appended(msgspec.Struct, frozen=True):
    """Committed. From here on the item holds, also after a crash."""

    first_index: int
    tree_size: int


class Repeated(msgspec.Struct, frozen=True):
    """Committed earlier: by this idempotency key, or under these entry ids. `answer` is the sealed one of that time."""

    first_index: int
    entry_count: int
    answer: bytes | None


class Moved(msgspec.Struct, frozen=True):
    """Nothing was written: a holder or an identifier changed meanwhile. Read again, fold again, append again."""


class KeyReused(msgspec.Struct, frozen=True):
    """Nothing was written: the idempotency key was used for another request."""


class IdClash(msgspec.Struct, frozen=True):
    """Nothing was written: an entry id exists with other content."""


class ClockSkewed(msgspec.Struct, frozen=True):
    """Nothing was written: the entry's time is more than 30 s from the database's clock."""


CLOCKS_APART_MS = 30_000
"""So far from the database's clock the append takes no entry (migrations/0004_append.sql)."""

Outcome: TypeAlias = Appended | Repeated | Moved | KeyReused | IdClash | ClockSkewed


@dataclass
class _Lane:
    """What waits for one log. Owned by the event loop: no await between a read and a write of it."""

    workspace_id: UUID
    log_id: int
    queue: deque[tuple[Item, asyncio.Future[Outcome]]] = field(default_factory=deque)
    entries: int = 0
    task: asyncio.Task[None] | None = None


class Appender:
    """Appends items to logs, many callers at a time. One batch a log is in flight; a few connections serve all logs."""

    def __init__(self, database: Database, *, connections: int = 2, journal: Journal | None = None) -> None:
        self._database = database
        self._journal = journal
        self._lanes: dict[tuple[UUID, int], _Lane] = {}
        self._turns: WeakValueDictionary[tuple[UUID, str, str], asyncio.Lock] = WeakValueDictionary()
        self._idle: asyncio.Queue[Connection | None] = asyncio.Queue()
        for _ in range(connections):
            self._idle.put_nowait(None)
        self._closed = False

    @property
    def queued(self) -> int:
        """Entries that wait or are in flight, over all logs."""
        return sum(lane.entries for lane in self._lanes.values())

    async def append(self, workspace_id: UUID, log_id: int, item: Item) -> Outcome:
        """Append one item and return after it is durable, or with why nothing was written.

        Raises Unavailable when the queue is full, the log is frozen, or the outcome is unknown after ANSWER_SECONDS;
        then a retry with the same ids or key is safe. Raises Invalid for an item that the database cannot hold. A
        cancelled caller does not cancel the append.
        """
        if self._closed:
            raise Unavailable("the service is stopping")
        lane = self._lanes.setdefault((workspace_id, log_id), _Lane(workspace_id, log_id))
        if lane.entries + len(item.entries) > QUEUE_ENTRIES:
            raise Unavailable("too many entries wait for the ledger; try again in a moment")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_mark_retrieved)
        lane.queue.append((item, future))
        lane.entries += len(item.entries)
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(lane))
        try:
            return await asyncio.wait_for(asyncio.shield(future), ANSWER_SECONDS)
        except TimeoutError as error:
            raise Unavailable(
                "the ledger did not answer in time; whether the entry was written is unknown, a retry is safe"
            ) from error

    @asynccontextmanager
    async def turn(self, *names: tuple[UUID, str, str]) -> AsyncIterator[None]:
        """Let this process's writers of one person (workspace, type, value) read, fold and append one after the other.

        Without it, of the writers that come at the same moment one a round is appended and all others are `Moved`. It
        saves rounds and decides nothing: the append does, also between processes. Raises Unavailable after ANSWER_SECONDS.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    for name in sorted(set(names)):  # in one order everywhere, so that no two wait for each other
                        await held.enter_async_context(self._turns.setdefault(name, asyncio.Lock()))
            except TimeoutError as error:
                raise Unavailable("this person is being written by others at the same moment; try again") from error
            yield

    async def close(self) -> None:
        """Take no more items, write what waits (at most 10 s), close the connections."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=ANSWER_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while not self._idle.empty():
            if (connection := self._idle.get_nowait()) is not None:
                connection.terminate()

    async def _drain(self, lane: _Lane) -> None:
        try:
            while lane.queue:
                batch = _take(lane)
                try:
                    await self._write(lane, batch)
                finally:
                    _give_up(lane, batch)
        finally:
            lane.task = None
            _give_up(lane, lane.queue)  # empty, unless this task was cancelled or failed
            lane.queue.clear()

    async def _write(self, lane: _Lane, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        items = [item for item, _ in batch]
        try:
            results = await self._committed(lane, items)
        except VolentiError as error:
            if (
                isinstance(error, (Invalid, LedgerDamaged)) and len(batch) > 1
            ):  # one item that the database cannot hold must not fail its neighbours
                half = len(batch) // 2
                await self._write(lane, batch[:half])
                await self._write(lane, batch[half:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        # COMMIT has been seen: from here on what was appended holds, whatever happens to the callers.
        try:
            await self._journaled(items, results)
        except (
            VolentiError
        ) as error:  # committed, but a restriction may not be acknowledged: its retry comes by here again
            for item, future in batch:
                if item.journal and not future.done():
                    future.set_exception(error)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(_outcome(result))

    async def _journaled(self, items: Sequence[Item], results: Sequence[ItemResult]) -> None:
        """Put the restrictions that are in the ledger into the journal, those of an item that was sent again too.

        Not of one that repeats a key: its own entries were not written; `record_consents` journals those that were.
        """
        if self._journal is not None:
            lines = [
                msgspec.structs.replace(line, index=result.first_index + line.index)
                for item, result in zip(items, results, strict=True)
                if result.first_index is not None and (result.verdict == "appended" or _sent_again(item, result))
                for line in item.journal
            ]
            if lines:
                await self._journal.write(lines)

    async def _committed(self, lane: _Lane, items: Sequence[Item]) -> list[ItemResult]:
        """The results of one batch. After a lost connection the same bytes are sent again: the ids tell what was written."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_SECONDS
        pause = 0.02
        outcome = "nothing was written"
        while True:
            connection = await self._idle.get()
            healthy = False
            try:
                if connection is None or connection.is_closed():
                    connection = await self._database.connect("volenti_app")
                results = await ledger.append(connection, lane.workspace_id, lane.log_id, items)
                healthy = True
                return results
            except (*LOST, Unavailable) as error:  # unknown, or the database is away
                outcome = "whether it was written is unknown, a retry is safe"  # and so from now on, whatever comes
                if loop.time() + pause > deadline or self._closed:
                    raise Unavailable(
                        "the database cannot be reached; whether the entry was written is unknown, a retry is safe"
                    ) from error
            except asyncpg.DiskFullError as error:
                healthy = connection is not None and not connection.is_closed()
                raise Unavailable(f"the database's disk is full; {outcome}") from error
            except BUSY as error:
                healthy = connection is not None and not connection.is_closed()
                raise Unavailable(f"the ledger is busy ({type(error).__name__}); {outcome}") from error
            except asyncpg.ObjectNotInPrerequisiteStateError as error:
                healthy = True
                raise Unavailable("the ledger does not accept entries: it is frozen or being recovered") from error
            except asyncpg.DataError as error:
                healthy = True
                raise Invalid(f"an entry cannot be stored ({type(error).__name__})") from error
            except asyncpg.IntegrityConstraintViolationError as error:
                healthy = True
                raise LedgerDamaged(
                    f"the database refused an entry ({type(error).__name__}: {error.constraint_name})"
                ) from error
            except asyncpg.PostgresError as error:  # no such log, a standby that takes no writes, a missing right
                healthy = connection is not None and not connection.is_closed()
                raise Unavailable(f"the database does not append ({type(error).__name__}); {outcome}") from error
            finally:
                if connection is not None and not healthy:
                    connection.terminate()
                self._idle.put_nowait(connection if healthy else None)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)


def _sent_again(item: Item, result: ItemResult) -> bool:
    """True if the ledger has this very item: its ids, and the answer that came with them."""
    own = None if item.idempotency is None else item.idempotency.answer
    return result.verdict == "duplicate" and result.answer == own


def _give_up(lane: _Lane, waiting: Iterable[tuple[Item, asyncio.Future[Outcome]]]) -> None:
    """Count items out of the lane, and answer those that nobody answered: no caller waits for what nobody works on."""
    for item, future in waiting:
        lane.entries -= len(item.entries)
        if not future.done():
            future.set_exception(
                Unavailable("the append was interrupted; whether it was written is unknown, a retry is safe")
            )


def _take(lane: _Lane) -> list[tuple[Item, asyncio.Future[Outcome]]]:
    """The next batch, in order of arrival. A second item of a holder, identifier or key waits for the batch after."""
    batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
    later: list[tuple[Item, asyncio.Future[Outcome]]] = []
    taken: set[object] = set()
    entries = size = 0
    while lane.queue and entries < BATCH_ENTRIES and size < BATCH_BYTES and len(later) < BATCH_ENTRIES:
        item, future = lane.queue.popleft()
        names: set[object] = {holder.holder for holder in item.holders}
        names.update(change.blind_index for change in item.identifiers)
        if item.idempotency is not None:
            names.add((item.idempotency.credential_id, item.idempotency.key))
        if names & taken:
            later.append((item, future))
        else:
            batch.append((item, future))
            entries += len(item.entries)
            size += sum(len(entry.leaf) + len(entry.body) for entry in item.entries)
        taken |= names  # also of one that waits: nobody overtakes within a holder
    lane.queue.extendleft(reversed(later))
    return batch


def _outcome(result: ItemResult) -> Outcome:
    match result.verdict:
        case "appended":
            assert result.first_index is not None
            return Appended(result.first_index, result.tree_size)
        case "duplicate":
            assert result.first_index is not None
            assert result.entry_count is not None
            return Repeated(result.first_index, result.entry_count, result.answer)
        case "again":
            return Moved()
        case "key_reused":
            return KeyReused()
        case "conflict":
            return IdClash()
        case "clock":
            return ClockSkewed()


def _mark_retrieved(future: asyncio.Future[Outcome]) -> None:
    """A caller that went away leaves an exception that nobody reads; it was logged where it arose."""
    if not future.cancelled():
        future.exception()
