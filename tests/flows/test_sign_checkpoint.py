"""What is signed was committed, extends all that was signed before, and is signed soon; else nothing is signed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from conftest import Api
from deployments import dsn_on, settings_on
from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.merkle import TreeSize
from volenti.errors import LedgerDamaged, Unavailable
from volenti.flows import prune, sign_checkpoint
from volenti.flows.administer import change
from volenti.flows.clock import instant, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import Checkpointer, covering, sign
from volenti.keys.signer import Signer
from volenti.settings import Settings
from volenti.store import ledger, schema
from volenti.store.appender import Appended
from volenti.store.embedded import Embedded
from volenti.store.ledger import Item, PendingEntry

Dsn = Callable[[str], str]


@pytest.fixture(scope="module")
def dsn(server: Embedded) -> Iterator[Dsn]:
    """A database of this module's own: what it damages stays damaged."""
    name = f"checkpoint_{os.getpid()}"
    asyncio.run(_execute(server.url("volenti", "postgres"), f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        asyncio.run(schema.bootstrap(server.url("volenti", name)))
        asyncio.run(schema.migrate(server.url("volenti_migrate", name), report=lambda line: None))
        yield dsn_on(server, name)
    finally:
        asyncio.run(_execute(server.url("volenti", "postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def settings(server: Embedded) -> Settings:
    """Without an anchor: what is found here is found by the checkpoints."""
    return settings_on(server, anchor="off", journal="off")


@pytest.fixture
async def services(dsn: Dsn, settings: Settings) -> AsyncIterator[Services]:
    async with opened(settings, dsn) as services:
        yield services


@pytest.fixture
async def superuser(dsn: Dsn) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn("volenti"), server_settings={"search_path": "volenti"})
    try:
        yield connection
    finally:
        await connection.close()


def plain(count: int = 1) -> Item:
    """An item of nobody's, with bytes of its own."""
    ids = [uuid4() for _ in range(count)]
    return Item(tuple(PendingEntry(one, instant(wall_clock()), b"leaf of " + one.bytes, None, b"") for one in ids))


async def append(services: Services, workspace: UUID, count: int = 1) -> int:
    outcome = await services.appender.append(workspace, 1, plain(count))
    assert isinstance(outcome, Appended)
    return outcome.tree_size


async def signed_sizes(superuser: Any, workspace: UUID) -> list[int]:
    rows = await superuser.fetch("SELECT size FROM ledger_checkpoint WHERE workspace_id = $1 ORDER BY size", workspace)
    return [row[0] for row in rows]


async def state_of(superuser: Any, workspace: UUID) -> str:
    state: str = await superuser.fetchval("SELECT state FROM ledger_log WHERE workspace_id = $1", workspace)
    return state


# --- soon, once, and only what is committed


async def test_a_pass_signs_what_was_committed_before_it(services: Services, superuser: Any, workspace: UUID) -> None:
    size = await append(services, workspace, 3)

    await Checkpointer(services).sign_all()

    assert await signed_sizes(superuser, workspace) == [size]
    row = await superuser.fetchrow("SELECT root, note FROM ledger_checkpoint WHERE workspace_id = $1", workspace)
    head = await ledger.head(superuser, workspace)
    key = note.parse_vkey(services.signer.vkey(head.origin))
    assert checkpoint.verify(row["note"], [key]) == checkpoint.TreeHead(head.origin, TreeSize(size), head.root)
    assert row["root"] == head.root


async def test_a_running_checkpointer_signs_within_a_second_of_the_commit(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    running = asyncio.create_task(Checkpointer(services).run())
    try:
        for _ in range(3):
            size = await append(services, workspace)
            async with asyncio.timeout(2):
                while (await signed_sizes(superuser, workspace))[-1:] != [size]:  # noqa: ASYNC110 - another's work
                    await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_head_is_signed_once_however_often_it_is_asked_for(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    signer = Fake(services.signer)
    services = dataclasses.replace(services, signer=signer)

    signed = [await sign(services, workspace) for _ in range(3)]

    assert signed[0] == signed[1] == signed[2]
    assert signer.asked == 1


async def test_two_processes_that_sign_at_once_make_one_checkpoint(
    services: Services, dsn: Dsn, settings: Settings, superuser: Any, workspace: UUID
) -> None:
    async with opened(settings, dsn) as other:
        for _ in range(5):
            size = await append(services, workspace)
            signed = await asyncio.gather(*(sign(which, workspace) for which in (services, other, services, other)))
            assert {one.size for one in signed if one is not None} == {size}

    assert len(await signed_sizes(superuser, workspace)) == 5


async def test_what_is_not_committed_is_not_signed(services: Services, superuser: Any, workspace: UUID) -> None:
    size = await append(services, workspace)
    connection = await services.database.connect("volenti_app")
    try:
        transaction = connection.transaction()
        await transaction.start()
        await ledger.append(connection, workspace, 1, [plain()])
        signed = await sign(services, workspace)
        await transaction.rollback()
    finally:
        await connection.close()

    assert signed is not None
    assert signed.size == size


class Watched:
    """A signer that remembers the sizes of what it signed."""

    def __init__(self, signer: Signer) -> None:
        self._signer, self.sizes = signer, set[int]()

    def vkey(self, origin: str) -> str:
        return self._signer.vkey(origin)

    async def sign(self, text: bytes) -> bytes:
        self.sizes.add(checkpoint.parse(text.decode()).size)
        return await self._signer.sign(text)


async def test_no_head_is_signed_before_its_entry_is_committed(services: Services, workspace: UUID) -> None:
    signer = Watched(services.signer)
    watched = dataclasses.replace(services, signer=signer)
    size = await append(services, workspace)
    with suppress(ZeroDivisionError):
        async with change(watched, workspace) as transaction:
            payload = {"credential": str(uuid4())}
            await transaction.record("credential.revoked", payload, entry_id=services.new_id(), log_id=1)
            raise ZeroDivisionError  # and so nothing of it is committed

    await sign(watched, workspace)

    assert signer.sizes == {size}


async def test_nothing_is_signed_while_the_clock_stands_before_the_newest_checkpoint(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    early = dataclasses.replace(services, clock=lambda: wall_clock() - 3_600_000)
    await append(services, workspace)
    await sign(services, workspace)
    before = await signed_sizes(superuser, workspace)
    size = await append(services, workspace)

    with pytest.raises(Unavailable, match="before the newest checkpoint"):
        await sign(early, workspace)
    assert await signed_sizes(superuser, workspace) == before
    await sign(services, workspace)
    assert await signed_sizes(superuser, workspace) == [*before, size]


async def test_a_checkpoint_of_a_size_to_come_is_not_given(services: Services, workspace: UUID) -> None:
    size = await append(services, workspace)

    assert await covering(services, workspace, size + 1, seconds=0.1) is None
    signed = await covering(services, workspace, size, seconds=0.1)
    assert signed is not None
    assert signed.size == size


# --- a head that cannot be true freezes the log


async def _other_root(superuser: Any, workspace: UUID) -> None:
    """A head of the same size that folds rightly, over another last entry."""
    frontier = list(await superuser.fetchval("SELECT frontier FROM ledger_head WHERE workspace_id = $1", workspace))
    frontier[-1] = os.urandom(32)
    await superuser.execute(
        "UPDATE ledger_head SET frontier = $2, root = $3 WHERE workspace_id = $1",
        workspace, frontier, merkle.root(frontier),
    )  # fmt: skip


async def _shorter(superuser: Any, workspace: UUID) -> None:
    """The last entry was never there."""
    rows = await superuser.fetch("SELECT leaf_hash FROM ledger_entry WHERE workspace_id = $1 ORDER BY idx", workspace)
    frontier: list[bytes] = []
    for size, row in enumerate(rows[:-1]):
        frontier = merkle.append(frontier, TreeSize(size), row[0])
    await superuser.execute(
        "UPDATE ledger_head SET size = $2, frontier = $3, root = $4 WHERE workspace_id = $1",
        workspace, len(rows) - 1, frontier, merkle.root(frontier),
    )  # fmt: skip
    await superuser.execute("DELETE FROM ledger_entry WHERE workspace_id = $1 AND idx = $2", workspace, len(rows) - 1)


async def _longer_over_another_past(superuser: Any, workspace: UUID) -> None:
    """A forged last entry, and one more after it."""
    rows = await superuser.fetch("SELECT leaf_hash FROM ledger_entry WHERE workspace_id = $1 ORDER BY idx", workspace)
    leaves = [bytes(row[0]) for row in rows[:-1]] + [merkle.leaf_hash(b"forged"), merkle.leaf_hash(b"more")]
    frontier: list[bytes] = []
    for size, leaf in enumerate(leaves):
        frontier = merkle.append(frontier, TreeSize(size), leaf)
    await superuser.execute(
        "UPDATE ledger_entry SET leaf = 'forged', leaf_hash = $3 WHERE workspace_id = $1 AND idx = $2",
        workspace, len(rows) - 1, leaves[-2],
    )  # fmt: skip
    await superuser.execute(
        "INSERT INTO ledger_entry VALUES ($1, 1, $2, gen_random_uuid(), $3, 'more', volenti.now())",
        workspace, len(rows), leaves[-1],
    )  # fmt: skip
    await superuser.execute(
        "UPDATE ledger_head SET size = $2, frontier = $3, root = $4 WHERE workspace_id = $1",
        workspace, len(leaves), frontier, merkle.root(frontier),
    )  # fmt: skip


async def _root_alone(superuser: Any, workspace: UUID) -> None:
    await superuser.execute("UPDATE ledger_head SET root = sha256(root) WHERE workspace_id = $1", workspace)


async def _last_entry_gone(superuser: Any, workspace: UUID) -> None:
    """An entry more by the head than there is."""
    await superuser.execute(
        "DELETE FROM ledger_entry e USING ledger_head h WHERE e.workspace_id = $1 AND h.workspace_id = $1 AND e.idx = h.size - 1",
        workspace,
    )


async def _last_leaf_changed(superuser: Any, workspace: UUID) -> None:
    await superuser.execute(
        "UPDATE ledger_entry e SET leaf = 'changed' FROM ledger_head h"
        " WHERE e.workspace_id = $1 AND h.workspace_id = $1 AND e.idx = h.size - 1",
        workspace,
    )


@asynccontextmanager
async def disarmed(superuser: Any) -> AsyncIterator[None]:
    """No trigger and no check stands in the way, for as long as the block lasts; what it wrote may break them."""
    tables = ("ledger_entry", "ledger_head")
    check = "leaf_hash = sha256('\\x00'::bytea || leaf)"
    for table in tables:
        await superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await superuser.execute("ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_check")
    try:
        yield
    finally:
        await superuser.execute(f"ALTER TABLE ledger_entry ADD CONSTRAINT ledger_entry_check CHECK ({check}) NOT VALID")
        for table in tables:
            await superuser.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
            await superuser.execute(
                f"DO $$DECLARE r record; BEGIN FOR r IN SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass"
                f" LOOP EXECUTE format('ALTER TABLE {table} ENABLE ALWAYS TRIGGER %I', r.tgname); END LOOP; END$$"
            )


ATTACKS: dict[str, Callable[[Any, UUID], Awaitable[None]]] = {
    "another root of the same size": _other_root,
    "shorter than what was signed": _shorter,
    "longer over another past": _longer_over_another_past,
    "a root that does not fold": _root_alone,
    "the last entry gone": _last_entry_gone,
    "the last leaf changed": _last_leaf_changed,
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_head_that_cannot_be_true_is_not_signed_and_freezes_the_log(
    services: Services, superuser: Any, workspace: UUID, attack: str
) -> None:
    await append(services, workspace, 5)
    await sign(services, workspace)
    if attack in ("the last entry gone", "the last leaf changed"):
        await append(services, workspace)  # what is signed already is not looked at again
    before = await signed_sizes(superuser, workspace)
    async with disarmed(superuser):
        await ATTACKS[attack](superuser, workspace)

    with pytest.raises(LedgerDamaged):
        await sign(services, workspace)
    assert await signed_sizes(superuser, workspace) == before
    assert await state_of(superuser, workspace) == "frozen"
    with pytest.raises(Unavailable, match="frozen or being recovered"):
        await append(services, workspace)


async def test_checks_deny_while_the_log_is_frozen(api: Api, superuser: Any) -> None:
    await api.choose("anna", "grant")
    assert (await api.check("anna"))["decision"] == "permit"
    await sign(api.services, api.workspace)
    async with disarmed(superuser):
        await _other_root(superuser, api.workspace)
    with pytest.raises(LedgerDamaged):
        await sign(api.services, api.workspace)

    denied = await api.check("anna")
    assert (denied["decision"], denied["reason"]) == ("deny", "system.restoring")
    assert (await api.choose("anna", "withdraw")).status_code == 503


async def test_a_damaged_log_does_not_keep_the_others_from_being_signed(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    others = [await create(services, f"{which}-{workspace.hex[-12:]}") for which in ("before", "after")]
    sizes = [await append(services, other) for other in others]
    async with disarmed(superuser):
        await _root_alone(superuser, workspace)

    await Checkpointer(services).sign_all()

    assert await state_of(superuser, workspace) == "frozen"
    for other, size in zip(others, sizes, strict=True):
        assert await signed_sizes(superuser, other) == [size]


async def test_a_fault_of_another_kind_neither_ends_the_checkpointer_nor_keeps_a_log_waiting(
    services: Services, superuser: Any, workspace: UUID, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    other = await create(services, f"other-{workspace.hex[-12:]}")
    size = await append(services, other)
    polls, polled = iter([ZeroDivisionError("anna@example.org")]), ledger.heads
    goes_on = asyncio.Event()

    async def heads(connection: Any) -> Any:
        if (fault := next(polls, None)) is not None:
            raise fault
        return await polled(connection)

    async def sign_one(services: Services, which: UUID) -> Any:
        if which == workspace:
            raise ZeroDivisionError("anna@example.org")
        signed = await sign(services, which)
        if which == other:
            goes_on.set()
        return signed

    monkeypatch.setattr(ledger, "heads", heads)
    monkeypatch.setattr(sign_checkpoint, "sign", sign_one)
    running = asyncio.create_task(Checkpointer(services).run())
    try:
        async with asyncio.timeout(30):
            await goes_on.wait()
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    assert await signed_sizes(superuser, other) == [size]
    assert "anna" not in "".join(capsys.readouterr())


async def test_a_fault_of_whatever_kind_does_not_end_the_pruning(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = asyncio.Event()
    faults = iter([ZeroDivisionError(), Unavailable("the database is away")])

    async def pruned(_: Services) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        again.set()

    monkeypatch.setattr(prune, "prune", pruned)
    monkeypatch.setattr(prune, "EVERY_SECONDS", 0.0)
    running = asyncio.create_task(prune.keep_pruned(services))
    try:
        async with asyncio.timeout(30):
            await again.wait()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


# --- a signer that fails


class Fake:
    """A signer that does something else for a while; then what the real one does."""

    def __init__(self, signer: Signer, instead: Callable[[bytes], Awaitable[bytes]] | None = None) -> None:
        self._signer, self.instead, self.asked = signer, instead, 0

    async def sign(self, text: bytes) -> bytes:
        self.asked += 1
        return await (self._signer.sign if self.instead is None else self.instead)(text)

    def vkey(self, origin: str) -> str:
        return self._signer.vkey(origin)


async def _raises(_: bytes) -> bytes:
    raise RuntimeError("the key service is away")


async def _refuses(_: bytes) -> bytes:
    raise Unavailable("the key service is away")


async def _hangs(_: bytes) -> bytes:
    await asyncio.sleep(3600)
    return b""


async def _wrong(_: bytes) -> bytes:
    return os.urandom(64)


async def _short(_: bytes) -> bytes:
    return b"short"


@pytest.mark.parametrize("instead", [_raises, _refuses, _hangs, _wrong, _short])
async def test_a_signer_that_fails_signs_nothing_while_appends_go_on(
    services: Services,
    superuser: Any,
    workspace: UUID,
    monkeypatch: pytest.MonkeyPatch,
    instead: Callable[[bytes], Awaitable[bytes]],
) -> None:
    monkeypatch.setattr(sign_checkpoint, "SIGNER_SECONDS", 0.05)
    signer = Fake(services.signer, instead)
    services = dataclasses.replace(services, signer=signer)

    with pytest.raises(Unavailable):
        await sign(services, workspace)
    await Checkpointer(services).sign_all()
    size = await append(services, workspace)

    assert await signed_sizes(superuser, workspace) == []
    assert await state_of(superuser, workspace) == "active"
    signer.instead = None
    await Checkpointer(services).sign_all()
    assert await signed_sizes(superuser, workspace) == [size]


async def test_a_running_checkpointer_outlives_its_signers_faults(
    services: Services, superuser: Any, workspace: UUID
) -> None:
    signer = Fake(services.signer, _raises)
    running = asyncio.create_task(Checkpointer(dataclasses.replace(services, signer=signer)).run())
    try:
        async with asyncio.timeout(5):
            while signer.asked < 2:  # noqa: ASYNC110 - another's work
                await asyncio.sleep(0.01)
            signer.instead = None
            while not await signed_sizes(superuser, workspace):  # noqa: ASYNC110 - another's work
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
