"""A replica whose wall clock jumps: it refuses what its time would falsify, signs nothing in the past, and changes no order."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from fault.harness import LONG, Client, Deployment, Load, Replica, deployed, fault, rounds, seeded
from volenti.core.admission import Choice, Command
from volenti.core.data_subject import Identifier
from volenti.flows.create_workspace import by_name
from volenti.flows.record_consents import Recorded, record

pytestmark = fault

JUMPS = ("-1h", "+1h", "-2d", "+2d") if LONG else ("-1h", "+2d")
JUMPED_SECONDS = 1.2
NOTICED_SECONDS = 10.0
SIGNED_SECONDS = 5.0
PACKAGE = importlib.util.find_spec("libfaketime")  # found, not imported: its import changes the process
LIBRARY = next(Path(PACKAGE.origin).parent.rglob("libfaketime.so.1"), None) if PACKAGE and PACKAGE.origin else None


@dataclass
class Jumpy:
    """Two replicas, the second of which reads its wall clock through a library that shifts it. The machine's stays as it is."""

    deployment: Deployment
    file: Path

    @property
    def steady(self) -> Replica:
        return self.deployment.replicas[0]

    @property
    def jumping(self) -> Replica:
        return self.deployment.replicas[1]

    async def jump(self, by: str, client: Client) -> None:
        """Return when the replica has noticed: the library looks once a second at what the time is to be."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(by)
        fresh.replace(self.file)
        deadline = time.monotonic() + NOTICED_SECONDS
        while (await client.get(self.jumping, "/readyz")).status_code != (200 if by == "+0" else 503):
            assert time.monotonic() < deadline, "a replica that can only refuse wants no requests"
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def jumpy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jumpy]:
    if LIBRARY is None:
        pytest.skip("libfaketime's library is not installed: its package has it for Linux only")
    file = tmp_path_factory.mktemp("clock") / "clock"
    file.write_text("+0")

    def arrange(deployment: Deployment) -> None:
        deployment.replicas[1].settings |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    with deployed(replicas=2, arrange=arrange) as deployment:
        yield Jumpy(deployment, file)


async def test_a_replica_whose_clock_jumped_refuses_and_is_not_ready_and_the_order_of_the_ledger_stays(
    jumpy: Jumpy,
) -> None:
    dice, deployment = seeded(), jumpy.deployment
    await deployment.whole()
    async with Load(deployment, dice, grants=False) as load, Client(deployment) as client:
        for _ in range(rounds(1)):
            for by in JUMPS:
                await load.acknowledges(10, seconds=20)
                await jumpy.jump(by, client)
                await asyncio.sleep(0.2)
                jumped = time.monotonic()
                await load.acknowledges(10, seconds=20)
                await asyncio.sleep(0.3)
                back = time.monotonic()
                await jumpy.jump("+0", client)
                told = [one for one in load.answered if jumped < one.begun and one.begun + one.took < back]
                print(f"{by}: {len(told)} requests meanwhile")
                assert {one.status for one in told if one.replica is jumpy.jumping} == {503}, by
                assert 201 in {one.status for one in told if one.replica is jumpy.steady}, by
        await load.acknowledges(20, seconds=20)

    await load.assert_sound()


async def test_nothing_is_signed_while_the_clock_stands_before_the_newest_checkpoint(jumpy: Jumpy) -> None:
    deployment = await jumpy.deployment.whole()
    assert await asyncio.to_thread(jumpy.steady.stop) == 0
    async with Client(deployment) as client:
        for _ in range(rounds(1)):
            for by in JUMPS:
                await jumpy.jump(by, client)
                await asyncio.sleep(0.3)  # a pass of the checkpointer that had begun
                size = await grown(deployment)
                if by.startswith("-"):
                    await asyncio.sleep(JUMPED_SECONDS)
                    assert await signed_size(deployment) < size, (
                        f"signed at {by}, before the checkpoint that it follows"
                    )
                    assert "the clock stands before the newest checkpoint" in jumpy.jumping.log.read_text()
                    await jumpy.jump("+0", client)
                deadline = time.monotonic() + SIGNED_SECONDS
                while await signed_size(deployment) < size:
                    assert time.monotonic() < deadline, f"nothing is signed after {by}"
                    await asyncio.sleep(0.05)
                await jumpy.jump("+0", client)
    await deployment.whole()
    await deployment.audit()
    await deployment.settled()


async def grown(deployment: Deployment) -> int:
    """Append a person's withdrawal from beside the replicas, whose time is right; returns the size of the log."""
    withdrawal = Command(
        actor="data_subject", component="tests", choices=(Choice(kind="withdraw", purpose="newsletter", channels=("email",)),)
    )  # fmt: skip
    async with deployment.services() as services:
        demo = await by_name(services, "demo")
        recorded = await record(services, demo, withdrawal, (Identifier("id", f"cus_{os.urandom(6).hex()}"),))
    assert isinstance(recorded, Recorded)
    return recorded.size


async def signed_size(deployment: Deployment) -> int:
    """The size of the newest signed tree head."""
    connection = await asyncpg.connect(deployment.database_url())
    try:
        return int(await connection.fetchval("SELECT max(size) FROM volenti.ledger_checkpoint"))
    finally:
        await connection.close()
