"""Full disks, each a real one of some megabytes: what cannot be written is refused and says so, and room is all it takes."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from deployments import fresh
from fault.harness import Choice, Client, Deployment, Load, Replica, choices, deployed, fault, rounds, seeded
from fault.privileges import Disk, small_disk
from volenti.store import journal

pytestmark = fault

FULL_SECONDS = 3.0
BACK_SECONDS = 10.0
"""How long writes may take after there is room again: 5 s, and what a machine takes that others keep busy."""


@dataclass
class Cramped:
    """A deployment, one of whose disks can be filled."""

    deployment: Deployment
    disk: Disk


def beside(folder: Path) -> dict[str, str]:
    """Anchor and journal on another disk than the database's, as an operator is told to have them."""
    return {f"VOLENTI_{name.upper()}": str(folder / name) for name in ("anchor", "journal")}


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Cramped]:
    disk = tmp_path / "disk"
    with (
        small_disk(disk, megabytes=160) as small,
        deployed(data=disk / "data", settings=beside(tmp_path)) as deployment,
    ):
        yield Cramped(deployment, small)


@pytest.fixture
def with_a_small_wal_disk(tmp_path: Path) -> Iterator[Cramped]:
    wal = tmp_path / "wal"

    def arrange(deployment: Deployment) -> None:
        deployment.replica.start()
        deployment.replica.stop()
        inside = deployment.data / "postgresql" / "pg_wal"
        owner = inside.stat()
        shutil.copytree(inside, wal / "pg_wal")
        for path in (wal, *wal.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        shutil.rmtree(inside)
        inside.symlink_to(wal / "pg_wal")

    with small_disk(wal, megabytes=48) as small, deployed(settings=beside(tmp_path), arrange=arrange) as deployment:
        yield Cramped(deployment, small)


@pytest.fixture(params=["production", "laptop"])
def with_a_small_state_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cramped]:
    state = tmp_path / "state"
    lasting = request.param == "production"
    with small_disk(state, megabytes=8 if lasting else 4, lasting=lasting) as small, fresh() as server:
        settings = {"VOLENTI_PROFILE": request.param, "VOLENTI_DATABASE_URL": server.url("volenti"), **beside(state)}
        with deployed(data=server.data_dir, settings=settings) as deployment:
            yield Cramped(deployment, small)


async def test_a_full_database_disk_refuses_writes_leaves_checks_alone_and_is_back_with_the_first_room(
    on_a_small_disk: Cramped,
) -> None:
    dice, deployment, disk = seeded(), on_a_small_disk.deployment, on_a_small_disk.disk
    service = deployment.replica.pid
    async with Load(deployment, dice) as load:
        for number in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            disk.fill()
            full = time.monotonic()
            await load.refuses(20, seconds=20)
            await asyncio.sleep(FULL_SECONDS)
            healed = time.monotonic()
            disk.make_room(grow=number % 2 == 0)
            took = await load.acknowledges(20, seconds=BACK_SECONDS)
            print(f"20 writes were acknowledged {took:.2f} s after there was room")
            disk.empty()
            checks = [one.status for one in load.answered if one.path == "/v1/check" and full < one.begun < healed]
            assert set(checks) == {200}

    assert deployment.replica.pid == service
    assert load.broken == 0
    await load.assert_sound()


async def test_a_full_wal_disk_stops_the_database_which_recovers_by_itself_with_the_first_room(
    with_a_small_wal_disk: Cramped,
) -> None:
    """PostgreSQL cannot go on without room for its log, by design: it panics, and until there is room everything is denied."""
    dice, deployment, disk = seeded(), with_a_small_wal_disk.deployment, with_a_small_wal_disk.disk
    service = deployment.replica.pid
    async with Load(deployment, dice) as load:
        for number in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            disk.fill()
            await deployment.use_up_the_log()
            await load.refuses(20, seconds=20)
            await asyncio.sleep(FULL_SECONDS)
            disk.make_room(grow=number % 2 == 0)
            took = await load.acknowledges(20, seconds=BACK_SECONDS + 10)
            print(f"20 writes were acknowledged {took:.2f} s after there was room")
            disk.empty()

    assert deployment.replica.running
    assert deployment.replica.pid == service
    assert load.broken == 0
    await load.assert_sound()


async def test_a_withdrawal_is_acknowledged_only_when_a_required_journal_has_it(
    with_a_small_state_disk: Cramped,
) -> None:
    """Where the journal is not required it is acknowledged all the same, and the log tells what is missing."""
    dice, deployment, disk = seeded(), with_a_small_state_disk.deployment, with_a_small_state_disk.disk
    replica = deployment.replica
    required = replica.settings["VOLENTI_PROFILE"] == "production"
    async with Client(deployment) as client:
        for number in range(rounds(1)):
            grant, _ = await choices(client, deployment, dice, f"cus_{dice.randrange(2**32):08x}", 2)
            disk.fill()
            withdrawal = await withdrawn_in_vain(client, replica) if required else await withdrawn(client, replica, 40)
            signed = await signed_size(deployment)
            if required:
                again = await client.record(replica, withdrawal)
                assert (again.status_code, again.headers["retry-after"]) == (503, "1"), (
                    "a repeated answer waits as well"
                )
            assert (await client.check(replica, withdrawal.person)).json()["reason"] == "consent.withdrawn"
            assert (await client.record(replica, grant)).status_code == 201, "what does not restrict needs no journal"
            assert (await client.check(replica, grant.person)).json()["decision"] == "permit"
            await asyncio.sleep(1.0)
            assert await signed_size(deployment) == signed, "signed, and not anchored"
            assert (await client.get(replica, "/v1/ledger/checkpoint")).status_code == 503

            disk.make_room(grow=number % 2 == 0)
            answer = await client.record(replica, withdrawal)
            assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, "true"), answer.text
            entries = {entry["entry"]: entry["index"] for entry in answer.json()["entries"]}
            journaled = {line.entry for line in journal.read(disk.path / "journal")}
            assert journaled & entries.keys(), "its retry puts it into the journal, whatever happened before"
            assert await signs(deployment, max(entries.values())), (
                "nothing was signed and anchored after there was room"
            )
            disk.empty()
    if not required:
        assert "journal.failed" in replica.log.read_text()
    await deployment.audit()
    await deployment.settled()


async def withdrawn(client: Client, replica: Replica, count: int) -> Choice:
    """The last of some withdrawals, more than fit into what a file of the disk has left of its last page."""
    for _ in range(count):
        name = f"full_{os.urandom(6).hex()}"
        assert (await client.record(replica, Choice(name, name, None))).status_code == 201
    return Choice(name, name, None)


async def withdrawn_in_vain(client: Client, replica: Replica) -> Choice:
    """The first withdrawal that is refused for want of room in the journal."""
    for _ in range(100):
        name = f"full_{os.urandom(6).hex()}"
        answer = await client.record(replica, Choice(name, name, None))
        if answer.status_code != 201:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert "journal cannot be written: No space left on device" in answer.json()["detail"]
            return Choice(name, name, None)
    raise AssertionError("a hundred withdrawals were acknowledged, and the disk is full")


async def signed_size(deployment: Deployment) -> int:
    """The size of the newest signed tree head."""
    connection = await asyncpg.connect(deployment.database_url())
    try:
        return int(await connection.fetchval("SELECT max(size) FROM volenti.ledger_checkpoint"))
    finally:
        await connection.close()


async def signs(deployment: Deployment, index: int) -> bool:
    """True as soon as a signed tree head covers an entry."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        if await signed_size(deployment) > index:
            return True
        await asyncio.sleep(0.1)
    return False
