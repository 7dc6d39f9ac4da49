"""Many callers, one log: what is acknowledged is in the log once and where it was said to be, whatever goes wrong."""

from __future__ import annotations

import asyncio
import functools
import itertools
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import pytest

from deployments import services_on
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.errors import Invalid, LedgerDamaged, Unavailable
from volenti.flows.clock import instant, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.rebuild_states import rebuild
from volenti.flows.record_consents import Recorded, Recording, Retry, record
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.store import appender, journal, ledger
from volenti.store.appender import Appended, Appender, Moved, Outcome, Repeated
from volenti.store.embedded import Embedded
from volenti.store.ledger import Item, PendingEntry, PendingHolder

WITHDRAW = Command(
    actor="data_subject", component="tests", choices=(Choice(kind="withdraw", purpose="newsletter", channels=("email",)),)
)  # fmt: skip


def plain(count: int = 1, *, leaf: bytes | None = None) -> Item:
    """An item of nobody's, with bytes of its own."""
    ids = [uuid4() for _ in range(count)]
    at = instant(wall_clock())
    return Item(
        tuple(PendingEntry(one, at, b"leaf of " + one.bytes if leaf is None else leaf, None, b"") for one in ids)
    )


async def stored(superuser: Any, workspace: UUID) -> dict[UUID, int]:
    """Where each entry of the workspace stands."""
    rows = await superuser.fetch("SELECT entry_id, idx FROM ledger_entry WHERE workspace_id = $1", workspace)
    assert sorted(row["idx"] for row in rows) == list(range(len(rows)))
    return {row["entry_id"]: row["idx"] for row in rows}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait a short while at most for something that comes by itself."""
    async with asyncio.timeout(5):
        for pause in itertools.count(1):
            if await holds():
                return
            await asyncio.sleep(0.001 * min(pause, 20))


async def assert_no_transaction_is_left(superuser: Any) -> None:
    await until(
        lambda: superuser.fetchval(
            "SELECT count(*) = 0 FROM pg_stat_activity"
            " WHERE state LIKE 'idle in transaction%' AND application_name LIKE 'volenti%'"
        )
    )


async def assert_sound(services: Services, workspace: UUID) -> None:
    """The log verifies, and every state is the fold of its entries."""
    assert [report.findings for report in await verify(services, workspaces=[workspace])] == [()]
    assert [rebuilt.findings for rebuilt in await rebuild(services, workspaces_only={workspace})] == [()]


async def withdraw(services: Services, workspace: UUID, *who: Identifier, retry: Retry | None = None) -> Recording:
    return await record(services, workspace, WITHDRAW, who, retry)


@asynccontextmanager
async def head_locked(superuser: Any, workspace: UUID) -> AsyncIterator[None]:
    """Hold the head's lock, as a writer that does not come to an end."""
    async with superuser.transaction():
        await superuser.execute("SELECT FROM ledger_head WHERE workspace_id = $1 FOR UPDATE", workspace)
        yield


# --- many callers


async def test_64_writers_of_one_person_at_once_are_all_recorded(services: Services, workspace: UUID) -> None:
    anna = Identifier("id", "anna")

    outcomes = await asyncio.gather(*(withdraw(services, workspace, anna) for _ in range(64)))

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)
    assert len({outcome.first_index for outcome in outcomes if isinstance(outcome, Recorded)}) == 64
    await assert_sound(services, workspace)


async def test_64_first_contacts_with_one_address_make_one_person(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    address = Identifier("email", "anna@shop.example")

    outcomes = await asyncio.gather(*(withdraw(services, workspace, address) for _ in range(64)))

    assert len({outcome.data_subject for outcome in outcomes if isinstance(outcome, Recorded)}) == 1
    assert await superuser.fetchval("SELECT count(*) FROM data_subject WHERE workspace_id = $1", workspace) == 1
    await assert_sound(services, workspace)


async def test_writers_of_one_person_in_two_processes_lose_nothing_that_was_acknowledged(
    services: Services, server: Embedded, workspace: UUID
) -> None:
    anna = Identifier("id", "anna")

    async def persist(services: Services) -> Recorded:
        while True:
            with suppress(Unavailable):
                outcome = await withdraw(services, workspace, anna)
                assert isinstance(outcome, Recorded)
                return outcome

    async with services_on(server) as others:
        outcomes = await asyncio.gather(*(persist(which) for which in (services, others) for _ in range(8)))

    assert len({outcome.first_index for outcome in outcomes}) == 16
    await assert_sound(services, workspace)


async def test_what_queued_while_the_last_batch_ran_is_one_batch(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    async with head_locked(superuser, workspace):
        first = asyncio.create_task(services.appender.append(workspace, 1, plain()))
        await until(lambda: superuser.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))
        others = [asyncio.create_task(services.appender.append(workspace, 1, plain())) for _ in range(50)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(first, *others)

    sizes = {outcome.tree_size for outcome in outcomes if isinstance(outcome, Appended)}
    assert len(sizes) == 2


async def test_two_items_of_one_person_never_share_a_batch(services: Services, workspace: UUID) -> None:
    anna = uuid4()

    def of_anna() -> Item:
        item = plain()
        return msgspec.structs.replace(item, holders=(PendingHolder(anna, 0, 1, item.entries[0].id, b"sealed"),))

    outcomes = await asyncio.gather(*(services.appender.append(workspace, 1, of_anna()) for _ in range(3)))

    assert [type(outcome) for outcome in outcomes] == [Appended, Moved, Moved]


# --- bounds


async def test_a_full_queue_refuses_at_once_and_takes_more_when_it_has_emptied(
    services: Services, superuser: Any, workspace: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "QUEUE_ENTRIES", 10)
    async with head_locked(superuser, workspace):
        waiting = [asyncio.create_task(services.appender.append(workspace, 1, plain(2))) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too many entries wait"):
            await services.appender.append(workspace, 1, plain())
        assert services.appender.queued == 10

    assert all(isinstance(outcome, Appended) for outcome in await asyncio.gather(*waiting))
    assert isinstance(await services.appender.append(workspace, 1, plain()), Appended)
    assert services.appender.queued == 0


@pytest.mark.slow
async def test_a_held_lock_is_unavailable_within_its_timeout_while_another_workspace_goes_on(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    elsewhere = await create(services, f"elsewhere-{workspace.hex[-12:]}")
    loop = asyncio.get_running_loop()
    async with head_locked(superuser, workspace):
        begun = loop.time()
        stuck = asyncio.create_task(services.appender.append(workspace, 1, plain()))
        for _ in range(20):
            assert isinstance(await services.appender.append(elsewhere, 1, plain()), Appended)
        assert not stuck.done()
        with pytest.raises(Unavailable, match="busy"):
            await stuck
        assert 1.5 < loop.time() - begun < 4

    assert isinstance(await services.appender.append(workspace, 1, plain()), Appended)
    await assert_no_transaction_is_left(superuser)


async def test_a_caller_is_told_that_the_outcome_is_unknown_when_the_ledger_does_not_answer(
    services: Services, superuser: Any, workspace: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "ANSWER_SECONDS", 0.2)
    item = plain()
    async with head_locked(superuser, workspace):
        with pytest.raises(Unavailable, match="unknown, a retry is safe"):
            await services.appender.append(workspace, 1, item)
    monkeypatch.undo()

    assert isinstance(await services.appender.append(workspace, 1, item), Repeated | Appended)
    assert list(await stored(superuser, workspace)).count(item.entries[0].id) == 1


async def test_a_closed_appender_has_written_what_waited_and_takes_no_more(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    own = Appender(services.database)
    items = [plain() for _ in range(20)]
    waiting = [asyncio.create_task(own.append(workspace, 1, item)) for item in items]
    await asyncio.sleep(0)

    await own.close()

    assert all(isinstance(outcome, Appended) for outcome in await asyncio.gather(*waiting))
    assert {item.entries[0].id for item in items} <= set(await stored(superuser, workspace))
    with pytest.raises(Unavailable, match="stopping"):
        await own.append(workspace, 1, plain())


# --- one item's fault


@pytest.mark.parametrize("position", [0, 7, 19])
async def test_a_poisoned_item_fails_alone(services: Services, superuser: Any, workspace: UUID, position: int) -> None:
    items = [plain() for _ in range(20)]
    items[position] = plain(leaf=b"x" * 16_385)

    outcomes = await asyncio.gather(
        *(services.appender.append(workspace, 1, item) for item in items), return_exceptions=True
    )

    assert isinstance(outcomes.pop(position), LedgerDamaged)
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert len(await stored(superuser, workspace)) == 2 + 19


async def test_an_item_that_cannot_be_written_down_fails_alone(services: Services, workspace: UUID) -> None:
    item = plain()
    holder = PendingHolder(uuid4(), 0, 2**40, item.entries[0].id, b"sealed")  # the position is no int4
    poisoned = msgspec.structs.replace(item, holders=(holder,))

    outcomes = await asyncio.gather(
        *(services.appender.append(workspace, 1, one) for one in (plain(), poisoned, plain())), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [Appended, Invalid, Appended]


async def test_a_log_that_is_not_there_fails_every_caller_at_once_and_no_other_log(
    services: Services, workspace: UUID
) -> None:
    async with asyncio.timeout(5):
        for _ in range(2):
            outcomes = await asyncio.gather(
                *(services.appender.append(workspace, 2, plain(300)) for _ in range(4)), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {Unavailable}
            assert isinstance(await services.appender.append(workspace, 1, plain()), Appended)
    assert services.appender.queued == 0


async def test_a_frozen_log_is_unavailable_to_every_caller(services: Services, workspace: UUID) -> None:
    async with services.database.workspace("volenti_signer", workspace) as connection:
        await ledger.freeze(connection, workspace, 1)

    outcomes = await asyncio.gather(
        *(services.appender.append(workspace, 1, plain()) for _ in range(3)), return_exceptions=True
    )

    assert [str(outcome) for outcome in outcomes] == [
        "the ledger does not accept entries: it is frozen or being recovered"
    ] * 3


# --- cancelled callers

Moment = Literal["before", "after"]


@types.coroutine
def watched(coroutine: Coroutine[Any, Any, Any], wait: Callable[[int, Any], None]) -> Generator[Any, Any, Any]:
    """Run a coroutine; `wait` is told before each of its waits: the number, and the future (None: a turn of the loop)."""
    waits = coroutine.__await__()
    resume: Callable[[], Any] = functools.partial(waits.send, None)
    for number in itertools.count():
        try:
            awaited = resume()
        except StopIteration as ended:
            return ended.value
        wait(number, awaited)
        try:
            yield awaited
        except BaseException as error:
            resume = functools.partial(waits.throw, error)
        else:
            resume = functools.partial(waits.send, None)
    return None


async def waits_of(work: Coroutine[Any, Any, Any]) -> int:
    """How often this work waits when nothing goes wrong."""
    numbers: list[int] = []

    async def run() -> None:
        await watched(work, lambda number, _: numbers.append(number))

    await asyncio.create_task(run())
    return len(numbers)


async def cancelled(work: Coroutine[Any, Any, Any], at: int, moment: Moment) -> None:
    """Run work in a task that is cancelled at its nth wait: as it begins, or when what it waits for has come."""

    def wait(number: int, awaited: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if number == at and moment == "after" and awaited is not None:
            awaited.add_done_callback(lambda _: task.cancel())
        elif number == at:
            task.cancel()

    async def run() -> None:
        await watched(work, wait)

    with suppress(asyncio.CancelledError):
        await asyncio.create_task(run())


async def drained(services: Services) -> None:
    async def empty() -> bool:
        return services.appender.queued == 0

    await until(empty)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_append_goes_on_when_its_caller_is_cancelled(
    services: Services, superuser: Any, workspace: UUID, moment: Moment
) -> None:
    count = await waits_of(services.appender.append(workspace, 1, plain()))
    assert count > 0
    for number in range(count):
        item = plain()
        await cancelled(services.appender.append(workspace, 1, item), number, moment)
        await drained(services)
        assert isinstance(await services.appender.append(workspace, 1, item), Repeated)

    await assert_no_transaction_is_left(superuser)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_request_cancelled_at_any_wait_is_recorded_once_by_its_retry(
    services: Services, superuser: Any, workspace: UUID, moment: Moment
) -> None:
    keys = itertools.count()

    def request(key: int) -> Coroutine[Any, Any, Recording]:
        retry = Retry(UUID(int=1), f"key {key}", "POST /v1/consents", b"{}")
        return withdraw(services, workspace, Identifier("id", f"person {key}"), retry=retry)

    await request(next(keys))
    count = await waits_of(request(next(keys)))
    before, tasks = len(await stored(superuser, workspace)), asyncio.all_tasks()
    for number in range(count):
        key = next(keys)
        await cancelled(request(key), number, moment)
        await drained(services)
        outcome = await request(key)
        assert isinstance(outcome, Recorded)
        assert len(outcome.entries) == 2
        places = await stored(superuser, workspace)
        assert [places[UUID(entry.entry)] for entry in outcome.entries] == [
            outcome.first_index,
            outcome.first_index + 1,
        ]

    assert count >= 2
    assert len(await stored(superuser, workspace)) == before + 2 * count
    await assert_nothing_is_left(services, superuser, tasks)
    await assert_sound(services, workspace)


@contextmanager
def cancelling(name: str, at: int, moment: Moment) -> Iterator[list[int]]:
    """The next task that runs the coroutine function `name` is cancelled at its nth wait; gives the waits that tasks of it came to.

    It is the service's own task, which no caller's cancellation reaches: a shutdown's does.
    """
    loop = asyncio.get_running_loop()
    seen: list[int] = []
    armed = True

    def wait(number: int, awaited: Any) -> None:
        nonlocal armed
        seen.append(number)
        if number == at and armed:
            armed = False
            task = asyncio.current_task()
            assert task is not None
            if moment == "after" and awaited is not None:
                awaited.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()

    async def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await watched(coroutine, wait)

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        chosen = run(coroutine) if getattr(coroutine, "__qualname__", "") == name else coroutine
        return asyncio.Task(chosen, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        yield seen
    finally:
        loop.set_task_factory(None)


async def assert_nothing_is_left(services: Services, superuser: Any, tasks: set[asyncio.Task[Any]]) -> None:
    """No task, no connection on loan, nothing queued, no open transaction."""

    async def settled() -> bool:
        pools = services.database._pools.values()
        return (
            all(pool.get_idle_size() == pool.get_size() for pool in pools)
            and services.appender._idle.qsize() == 2
            and services.appender.queued == 0
            and asyncio.all_tasks() <= tasks
        )

    await until(settled)
    await assert_no_transaction_is_left(superuser)


async def disconnect(services: Services) -> None:
    """Let the next append and the next read begin with a new connection."""
    for _ in range(2):
        if (connection := services.appender._idle.get_nowait()) is not None:
            connection.terminate()
        services.appender._idle.put_nowait(None)
    await (await services.database.pool("volenti_app")).expire_connections()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "connecting"])
@pytest.mark.parametrize("name", ["Appender._drain", "StateReader._drain"])
async def test_the_services_own_tasks_cancelled_at_any_wait_lose_nothing_and_leave_nothing(
    services: Services, superuser: Any, workspace: UUID, name: str, connected: bool, moment: Moment
) -> None:
    """The path of a write below the request: the connection, the read, the batch, the statement, the journal."""
    keys = itertools.count()

    def request(key: int) -> Coroutine[Any, Any, Recording]:
        retry = Retry(UUID(int=1), f"key {key}", "POST /v1/consents", b"{}")
        return withdraw(services, workspace, Identifier("id", f"person {key}"), retry=retry)

    for _ in range(3):  # so that every connection is there, and every statement prepared
        await request(next(keys))
    with cancelling(name, -1, moment) as waits:
        if not connected:
            await disconnect(services)
        await request(next(keys))
    before, tasks = len(await stored(superuser, workspace)), asyncio.all_tasks()
    acknowledged = cut = 0
    for number in range(len(waits)):
        key, told = next(keys), None
        if not connected:
            await disconnect(services)
        with cancelling(name, number, moment), suppress(Unavailable):
            told = await request(key)
        await assert_nothing_is_left(services, superuser, tasks)
        outcome = await request(key)
        assert isinstance(outcome, Recorded)
        cut += told is None
        if told is not None:
            acknowledged += 1
            assert isinstance(told, Recorded)
            assert (told.entries, told.first_index) == (outcome.entries, outcome.first_index)
        places = await stored(superuser, workspace)
        assert [places[UUID(entry.entry)] for entry in outcome.entries] == [
            outcome.first_index,
            outcome.first_index + 1,
        ]
        assert UUID(outcome.entries[-1].entry) in {UUID(line.entry) for line in journaled(services)}

    print(f"{name}: {len(waits)} waits, {cut} cancellations reached the caller, {acknowledged} did not")
    assert len(waits) >= (1 if connected else 4)
    assert cut, "no cancellation reached a caller"
    assert len(await stored(superuser, workspace)) == before + 2 * len(waits)
    await assert_sound(services, workspace)


def journaled(services: Services) -> Iterator[journal.Line]:
    folder = services.settings.journal_path
    assert folder is not None
    return journal.read(folder)


# --- lost connections


@pytest.mark.slow
async def test_backends_killed_in_flight_lose_and_double_nothing(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    acknowledged: dict[UUID, int] = {}
    done = asyncio.Event()
    killed = written = 0

    async def write() -> None:
        """25 times, and on until a backend was met in the middle of an append."""
        nonlocal written
        mine = 0
        while mine < 25 or not killed:
            item = plain(2)
            mine, written = mine + 1, written + 1
            while True:
                with suppress(Unavailable):
                    outcome: Outcome = await services.appender.append(workspace, 1, item)
                    assert isinstance(outcome, Appended | Repeated), outcome
                    acknowledged.update(
                        {entry.id: outcome.first_index + position for position, entry in enumerate(item.entries)}
                    )
                    break

    async def kill() -> None:
        nonlocal killed
        while killed < 20 and not done.is_set():
            killed += await superuser.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'volenti_app' AND query LIKE '%ledger_append%' AND state = 'active'"
            )
            await asyncio.sleep(0.02)

    killer = asyncio.create_task(kill())
    async with asyncio.timeout(60):
        await asyncio.gather(*(write() for _ in range(8)))
    done.set()
    await killer

    assert killed > 0
    places = await stored(superuser, workspace)
    assert acknowledged == {entry: places[entry] for entry in acknowledged}
    assert len(places) == 2 + len(acknowledged) == 2 + written * 2
    await assert_no_transaction_is_left(superuser)


async def test_a_connection_that_died_while_it_was_idle_is_replaced(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    await services.appender.append(workspace, 1, plain())
    await superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'volenti_app'"
    )

    assert isinstance(await services.appender.append(workspace, 1, plain()), Appended)
