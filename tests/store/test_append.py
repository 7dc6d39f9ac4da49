"""One statement decides each item of a batch by itself, under the head's lock, and leaves a dense log and a right tree."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from volenti.core.ledger import merkle
from volenti.core.ledger.tile import Edge
from volenti.errors import LedgerDamaged
from volenti.flows.clock import instant, wall_clock
from volenti.flows.services import Services
from volenti.store import ledger
from volenti.store.database import Connection
from volenti.store.ledger import (
    IdempotencyRow,
    IdentifierChange,
    Item,
    ItemResult,
    NewHolder,
    PendingEntry,
    PendingHolder,
)

TABLES = (
    "ledger_entry", "ledger_tile", "ledger_change", "entry_payload", "data_subject_entry", "data_subject_state",
    "data_subject", "data_subject_identifier", "suppression", "idempotency",
)  # fmt: skip


@dataclass
class Log:
    """A workspace's log as the application's role appends to it."""

    connection: Connection
    superuser: Connection
    workspace: UUID

    async def append(self, *items: Item) -> list[ItemResult]:
        return await ledger.append(self.connection, self.workspace, 1, items)

    async def verdicts(self, *items: Item) -> list[str]:
        return [result.verdict for result in await self.append(*items)]

    async def rows(self) -> dict[str, list[Any]]:
        """Every row that an append may touch."""
        return {
            table: await self.superuser.fetch(f"SELECT * FROM {table} t WHERE workspace_id = $1 ORDER BY t", self.workspace)
            for table in TABLES
        }  # fmt: skip

    async def size(self) -> int:
        size: int = await self.superuser.fetchval(
            "SELECT size FROM ledger_head WHERE workspace_id = $1", self.workspace
        )
        return size

    async def state(self, holder: UUID) -> tuple[int, UUID, bytes]:
        row = await self.superuser.fetchrow(
            "SELECT revision, last_entry_id, sealed FROM data_subject_state WHERE workspace_id = $1 AND holder = $2",
            self.workspace, holder,
        )  # fmt: skip
        return tuple(row)


@pytest.fixture
async def log(services: Services, superuser: Any, workspace: UUID) -> AsyncIterator[Log]:
    connection = await services.database.connect("volenti_app")
    try:
        yield Log(connection, superuser, workspace)
    finally:
        await connection.close()


def entry(holder: UUID | None = None, *, seconds: float = 0.0) -> PendingEntry:
    """An entry with bytes of its own, recorded so many seconds from now."""
    entry_id = uuid4()
    at = instant(wall_clock() + round(seconds * 1000))
    return PendingEntry(entry_id, at, b"leaf of " + entry_id.bytes, holder, b"body of " + entry_id.bytes)


def of(*holders: UUID, revision: int = 0, entries_each: int = 1, **members: Any) -> Item:
    """An item of some holders, each folded from `revision`; revision 0 makes them new."""
    entries = tuple(entry(holder) for holder in holders for _ in range(entries_each))
    pending = tuple(
        PendingHolder(holder, revision, position * entries_each, entries[position * entries_each - 1].id, os.urandom(8))
        for position, holder in enumerate(holders, 1)
    )
    new = tuple(NewHolder(holder, b"key of " + holder.bytes) for holder in holders) if revision == 0 else ()
    return msgspec.structs.replace(Item(entries, pending, new), **members)


def plain(count: int = 1) -> Item:
    """An item of nobody's."""
    return Item(tuple(entry() for _ in range(count)))


def keyed(item: Item, key: bytes = b"key", fingerprint: bytes = b"print", answer: bytes = b"answer") -> Item:
    row = IdempotencyRow(UUID(int=1), key, fingerprint, answer)
    return msgspec.structs.replace(item, idempotency=row)


async def assert_tree(log: Log) -> None:
    """The head and the tiles are those that core.ledger computes from the entries, and the entries are dense."""
    edge, tiles = Edge(), {}
    for index, row in enumerate(
        await log.superuser.fetch(
            "SELECT idx, leaf, leaf_hash FROM ledger_entry WHERE workspace_id = $1 ORDER BY idx", log.workspace
        )
    ):
        assert (row["idx"], row["leaf_hash"]) == (index, merkle.leaf_hash(row["leaf"]))
        for full in edge.append(row["leaf_hash"]):
            tiles[full.level, full.index] = (full.root, full.hashes)
    head = await log.superuser.fetchrow(
        "SELECT size, root, frontier FROM ledger_head WHERE workspace_id = $1", log.workspace
    )

    assert tuple(head) == (edge.size, edge.root(), edge.frontier)
    assert await ledger.tiles(log.superuser, log.workspace, 1) == tiles


# --- appended


async def test_items_take_adjacent_indexes_in_the_order_of_the_batch(log: Log) -> None:
    begin = await log.size()
    items = [plain(2), plain(1), plain(3)]

    results = await log.append(*items)

    assert [(result.first_index, result.entry_count) for result in results] == [
        (begin, 2),
        (begin + 2, 1),
        (begin + 3, 3),
    ]
    assert {result.tree_size for result in results} == {begin + 6}
    ids = [entry.id for item in items for entry in item.entries]
    stored = await ledger.places(log.superuser, log.workspace, ids)
    assert stored == {entry_id: (1, index) for index, entry_id in enumerate(ids, begin)}


@pytest.mark.parametrize("holders", [0, 1, 2, 3])
async def test_an_item_moves_the_state_of_each_of_its_holders(log: Log, holders: int) -> None:
    begin = await log.size()
    people = [uuid4() for _ in range(holders)]
    item = of(*people, entries_each=2) if people else plain(2)

    (result,) = await log.append(item)

    assert (result.verdict, result.first_index) == ("appended", begin)
    for position, (person, pending) in enumerate(zip(people, item.holders, strict=True), 1):
        assert await log.state(person) == (begin + position * 2, pending.last_entry, pending.sealed)
    rows = await log.rows()
    assert [row["holder"] for row in rows["ledger_change"][begin:]] == [entry.holder for entry in item.entries]
    assert {(row["holder"], row["idx"]) for row in rows["data_subject_entry"]} == {
        (entry.holder, index) for index, entry in enumerate(item.entries, begin) if entry.holder is not None
    }
    assert {bytes(row["wrapped_key"]) for row in rows["data_subject"]} == {b"key of " + one.bytes for one in people}


async def test_the_next_item_of_a_person_replaces_the_state(log: Log) -> None:
    anna = uuid4()
    await log.append(of(anna))
    revision, _, _ = await log.state(anna)
    item = of(anna, revision=revision)

    assert await log.verdicts(item) == ["appended"]
    assert await log.state(anna) == (revision + 1, item.entries[0].id, item.holders[0].sealed)


async def test_an_identifier_is_bound_moved_and_removed(log: Log) -> None:
    anna, bela, index = uuid4(), uuid4(), os.urandom(32)

    async def bound() -> list[UUID]:
        return [row["holder"] for row in (await log.rows())["data_subject_identifier"]]

    await log.append(of(anna, identifiers=(IdentifierChange(index, None, anna, b"sealed"),)))
    assert await bound() == [anna]
    await log.append(of(bela, identifiers=(IdentifierChange(index, anna, bela, b"sealed"),)))
    assert await bound() == [bela]
    await log.append(plain(), Item((entry(),), identifiers=(IdentifierChange(index, bela, None, None),)))
    assert await bound() == []


async def test_writers_on_several_connections_leave_no_gap(log: Log, services: Services) -> None:
    begin = await log.size()

    async def write() -> list[int]:
        connection = await services.database.connect("volenti_app")
        try:
            results = [await ledger.append(connection, log.workspace, 1, [plain(2), plain(1)]) for _ in range(10)]
        finally:
            await connection.close()
        return [result.first_index for batch in results for result in batch if result.first_index is not None]

    indexes = [index for written in await asyncio.gather(*(write() for _ in range(3))) for index in written]

    assert len(set(indexes)) == 60
    assert await log.size() == begin + 90
    await assert_tree(log)


# --- duplicate


async def test_the_same_item_again_is_a_duplicate_at_its_first_index(log: Log) -> None:
    item = of(uuid4(), entries_each=2)
    (first,) = await log.append(item)
    before = await log.rows()

    again = await log.append(plain(), item, item)

    assert [result.verdict for result in again] == ["appended", "duplicate", "duplicate"]
    assert {(result.first_index, result.entry_count) for result in again[1:]} == {(first.first_index, 2)}
    assert (await log.rows())["data_subject_state"] == before["data_subject_state"]


async def test_a_known_key_with_the_same_request_gives_the_stored_answer_whatever_the_ids(log: Log) -> None:
    (first,) = await log.append(keyed(plain(3), answer=b"the first answer"))

    (again,) = await log.append(keyed(plain(1), answer=b"another answer"))

    assert (again.verdict, again.first_index, again.entry_count) == ("duplicate", first.first_index, 3)
    assert again.answer == b"the first answer"


async def test_a_retry_is_a_duplicate_although_the_person_moved_on(log: Log) -> None:
    anna = uuid4()
    item = of(anna, identifiers=(IdentifierChange(os.urandom(32), None, anna, b"sealed"),))
    (first,) = await log.append(item)
    await log.append(of(anna, revision=(await log.state(anna))[0]))

    (again,) = await log.append(item)

    assert (again.verdict, again.first_index) == ("duplicate", first.first_index)


async def test_a_retry_is_a_duplicate_however_late_it_comes(log: Log) -> None:
    item = plain()
    await log.append(item)
    late = msgspec.structs.replace(item.entries[0], at=instant(wall_clock() - 3_600_000))

    assert await log.verdicts(Item((late,))) == ["duplicate"]


# --- again


async def test_a_person_who_moved_is_again(log: Log) -> None:
    anna = uuid4()
    await log.append(of(anna))
    revision, _, _ = await log.state(anna)

    assert (
        await log.verdicts(
            of(anna, revision=revision - 1), of(anna, revision=revision + 1), of(anna), of(uuid4(), revision=7)
        )
        == ["again"] * 4
    )


async def test_one_moved_holder_of_three_is_enough_for_again(log: Log) -> None:
    people = [uuid4(), uuid4(), uuid4()]
    await log.append(of(people[2]))

    assert await log.verdicts(of(*people)) == ["again"]


@pytest.mark.parametrize("expected", ["nobody", "somebody else"])
async def test_an_identifier_that_is_bound_otherwise_than_expected_is_again(log: Log, expected: str) -> None:
    anna, bela, index = uuid4(), uuid4(), os.urandom(32)
    await log.append(of(anna, identifiers=(IdentifierChange(index, None, anna, b"sealed"),)))
    change = IdentifierChange(index, None if expected == "nobody" else uuid4(), bela, b"sealed")

    assert await log.verdicts(of(bela, identifiers=(change,))) == ["again"]


async def test_an_identifier_that_is_expected_and_not_there_is_again(log: Log) -> None:
    bela = uuid4()
    change = IdentifierChange(os.urandom(32), uuid4(), bela, b"sealed")

    assert await log.verdicts(of(bela, identifiers=(change,))) == ["again"]


def _twins() -> dict[str, tuple[Item, Item]]:
    anna, bela, index = uuid4(), uuid4(), os.urandom(32)
    same = entry()
    return {
        "holder": (of(anna), of(anna)),
        "identifier": (
            of(anna, identifiers=(IdentifierChange(index, None, anna, b"sealed"),)),
            of(bela, identifiers=(IdentifierChange(index, None, bela, b"sealed"),)),
        ),
        "key": (keyed(plain()), keyed(plain())),
        "entry": (Item((same,)), Item((same, entry()))),
    }


@pytest.mark.parametrize("twin", ["holder", "identifier", "key", "entry"])
async def test_of_two_items_of_a_batch_that_concern_the_same_the_second_is_again(log: Log, twin: str) -> None:
    first, second = _twins()[twin]

    assert await log.verdicts(first, plain(), second) == ["appended", "appended", "again"]


async def test_a_new_address_is_bound_once(log: Log) -> None:
    mac, anna, bela, carla = os.urandom(32), uuid4(), uuid4(), uuid4()

    async def verdicts(*items: Item) -> list[str]:
        results = await ledger.append(_Addressed(log.connection, mac), log.workspace, 1, items)
        return [result.verdict for result in results]

    assert await verdicts(of(anna), of(bela)) == ["appended", "again"]
    assert await verdicts(of(carla)) == ["again"]
    assert [(row["mac"], row["holder"]) for row in (await log.rows())["suppression"]] == [(mac, anna)]


class _Addressed:
    """A connection over which every new holder is an address with one MAC."""

    def __init__(self, connection: Connection, mac: bytes) -> None:
        self._connection, self._mac = connection, mac

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        given = list(arguments)
        given[9] = [self._mac for _ in given[9]]  # n_mac
        return await self._connection.fetch(statement, *given)


# --- key_reused, conflict, clock


async def test_a_known_key_with_another_request_is_refused(log: Log) -> None:
    await log.append(keyed(plain()))

    assert await log.verdicts(keyed(plain(), fingerprint=b"another")) == ["key_reused"]


async def test_a_key_of_another_credential_is_another_key(log: Log) -> None:
    await log.append(keyed(plain()))
    row = IdempotencyRow(UUID(int=2), b"key", b"another", b"answer")

    assert await log.verdicts(msgspec.structs.replace(plain(), idempotency=row)) == ["appended"]


async def test_a_known_id_with_another_leaf_is_a_conflict(log: Log) -> None:
    item = plain()
    await log.append(item)

    assert await log.verdicts(Item((msgspec.structs.replace(item.entries[0], leaf=b"another"),))) == ["conflict"]


async def test_an_item_of_which_only_some_entries_are_known_is_a_conflict(log: Log) -> None:
    item = plain()
    await log.append(item)

    assert await log.verdicts(Item((*item.entries, entry()))) == ["conflict"]


async def test_an_id_twice_in_one_item_is_a_conflict(log: Log) -> None:
    same = entry()

    assert await log.verdicts(Item((same, same))) == ["conflict"]


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(-32, "clock"), (-28, "appended"), (0, "appended"), (28, "appended"), (32, "clock")]
)
async def test_an_entry_may_be_half_a_minute_from_the_databases_clock(log: Log, seconds: int, verdict: str) -> None:
    assert await log.verdicts(Item((entry(), entry(seconds=seconds)))) == [verdict]


# --- what is refused leaves nothing


async def test_refused_items_write_nothing_and_their_neighbours_are_appended(log: Log) -> None:
    anna, used = uuid4(), keyed(plain(), key=b"used")
    known = plain()
    await log.append(of(anna), known, used)
    begin = await log.size()
    index = os.urandom(32)
    stranger = uuid4()

    verdicts = await log.verdicts(
        plain(2),
        keyed(of(anna, uuid4(), identifiers=(IdentifierChange(index, None, anna, b"sealed"),)), key=b"fresh"),
        Item((msgspec.structs.replace(known.entries[0], leaf=b"another"), entry())),
        keyed(plain(), key=b"used", fingerprint=b"another"),
        msgspec.structs.replace(of(stranger), entries=(entry(stranger, seconds=60),)),
        plain(1),
    )

    assert verdicts == ["appended", "again", "conflict", "key_reused", "clock", "appended"]
    rows = await log.rows()
    assert await log.size() == begin + 3
    assert len(rows["ledger_entry"]) == len(rows["entry_payload"]) == len(rows["ledger_change"]) == begin + 3
    assert {row["holder"] for row in rows["data_subject"]} == {anna}
    assert {row["holder"] for row in rows["data_subject_state"]} == {anna}
    assert [row["key"] for row in rows["idempotency"]] == [b"used"]
    assert rows["data_subject_identifier"] == []
    await assert_tree(log)


async def test_a_batch_in_which_all_is_refused_changes_no_row(log: Log) -> None:
    item = plain()
    await log.append(item)
    before = await log.rows()

    await log.append(item, Item((msgspec.structs.replace(item.entries[0], leaf=b"another"),)), of(uuid4(), revision=3))

    assert await log.rows() == before
    await assert_tree(log)


@pytest.mark.parametrize("leaf", [b"", b"x" * 16_385])
async def test_a_leaf_that_does_not_fit_fails_the_statement_as_a_whole(log: Log, leaf: bytes) -> None:
    before = await log.rows()

    with pytest.raises(asyncpg.CheckViolationError):
        await log.append(plain(), Item((msgspec.structs.replace(entry(), leaf=leaf),)))
    assert await log.rows() == before


async def test_the_largest_leaf_fits(log: Log) -> None:
    assert await log.verdicts(Item((msgspec.structs.replace(entry(), leaf=b"x" * 16_384),))) == ["appended"]


# --- the tree


async def test_after_every_batch_the_tree_is_the_one_of_its_leaves(log: Log) -> None:
    for width in (1, 1, 2, 3, 7, 64, 1):
        await log.append(plain(width), plain(width))
        await assert_tree(log)


async def test_tiles_are_written_when_they_become_full_also_within_a_batch(log: Log) -> None:
    for batch in (300, 300):
        await log.append(*(plain() for _ in range(batch)))
        await assert_tree(log)

    assert set(await ledger.tiles(log.superuser, log.workspace, 1)) == {(0, 0), (0, 1)}


async def test_a_batch_may_end_exactly_with_a_tile(log: Log) -> None:
    await log.append(plain(256 - await log.size()))
    await assert_tree(log)
    assert set(await ledger.tiles(log.superuser, log.workspace, 1)) == {(0, 0)}

    await log.append(plain(1))
    await assert_tree(log)


@pytest.mark.parametrize(("level", "index", "width"), [(0, 1, 256), (0, 0, 4), (1, 0, 1), (1, 0, 256)])
async def test_hashes_that_are_not_there_raise_and_never_shorten_the_list(
    log: Log, level: int, index: int, width: int
) -> None:
    assert await log.size() < 4

    with pytest.raises(LedgerDamaged, match="missing or short"):
        await ledger.tile_hashes(log.superuser, log.workspace, 1, level, index, width)


@pytest.mark.slow
async def test_a_tile_of_tiles_is_written_when_256_tiles_are_full(log: Log) -> None:
    while (left := 65_536 - await log.size()) > 0:
        await log.append(plain(min(left, 4_000)))
    await assert_tree(log)
    assert {level for level, _ in await ledger.tiles(log.superuser, log.workspace, 1)} == {0, 1}

    await log.append(plain(300))
    await assert_tree(log)


# --- ids of all logs


@pytest.mark.parametrize("count", [1, 2])
async def test_an_id_of_a_log_before_is_taken_in_no_later_log(log: Log, count: int) -> None:
    old = plain(count)
    (first,) = await log.append(old)
    await log.superuser.execute("SELECT ledger_freeze($1, 1)", log.workspace)
    assert await log.superuser.fetchval("SELECT ledger_open($1, $2)", log.workspace, f"test/{log.workspace}/2") == 2
    other = tuple(msgspec.structs.replace(one, leaf=b"another") for one in old.entries)

    (clash, known, fresh) = await ledger.append(log.connection, log.workspace, 2, [Item(other), old, plain()])

    assert (clash.verdict, known.verdict, fresh.verdict) == ("conflict", "duplicate", "appended")
    assert (known.first_index, known.entry_count) == (first.first_index, count)
    assert fresh.first_index == 0
    ids = [one.id for one in old.entries]
    assert {place[0] for place in (await ledger.places(log.superuser, log.workspace, ids)).values()} == {1}


# --- when it does not append


async def test_a_frozen_log_takes_nothing(log: Log, services: Services) -> None:
    async with services.database.workspace("volenti_signer", log.workspace) as connection:
        await ledger.freeze(connection, log.workspace, 1)

    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await log.append(plain())


async def test_a_log_that_a_workspace_does_not_have_takes_nothing(log: Log) -> None:
    with pytest.raises(asyncpg.NoDataFoundError):
        await ledger.append(log.connection, log.workspace, 2, [plain()])


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_snapshot_older_than_the_lock_is_refused(log: Log, isolation: Any) -> None:
    before = await log.rows()

    with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
        async with log.connection.transaction(isolation=isolation):
            await log.append(plain())
    assert await log.rows() == before


async def test_an_append_that_is_rolled_back_leaves_no_gap(log: Log) -> None:
    async def undone(items: Sequence[Item]) -> None:
        async with log.connection.transaction():
            await log.append(*items)
            raise ZeroDivisionError

    begin = await log.size()
    with pytest.raises(ZeroDivisionError):
        await undone([plain(5)])
    (result,) = await log.append(plain())

    assert result.first_index == begin
    await assert_tree(log)
