"""The network between a replica and its database goes silent: it denies within its deadline, and is back when the network is."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from deployments import fresh
from fault.harness import Client, Deployment, Load, Replica, choices, deployed, fault, rounds, seeded
from fault.privileges import Network, own_network
from volenti.store.embedded import Embedded

pytestmark = fault

CUT_SECONDS = 8.0
CHECK_SECONDS = 2.5
"""A check's deadline is 1 s; the rest is for a machine that other tests keep busy."""
WRITE_SECONDS = 15.6
BACK_SECONDS = 3.0
DROPPED_SECONDS = 12.0
"""An idle connection is given up after 5 s of silence; one that was tried just before that, 5 s later."""
FORGOTTEN_SECONDS = 30.0
"""PostgreSQL asks a silent client after 10 s, and learns then that it is gone."""


@dataclass
class Split:
    """A replica that reaches the database through a network of its own, and one beside the database."""

    deployment: Deployment
    network: Network
    far: Replica
    near: Replica


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    with own_network() as network, fresh() as server:
        listen(server, network.database)
        data = server.data_dir
        settings = {
            name: str(data / name.removeprefix("VOLENTI_").lower()) for name in ("VOLENTI_ANCHOR", "VOLENTI_JOURNAL")
        }

        def arrange(deployment: Deployment) -> None:
            assert deployment.kill_database(signal.SIGINT)
            while server.alive():
                time.sleep(0.05)
            server.revive()
            near, far = deployment.replicas
            near.settings["VOLENTI_DATABASE_URL"] = server.url("volenti").replace("//volenti@", "//volenti_service@")
            far.settings["VOLENTI_DATABASE_URL"] = f"postgresql://volenti_service@{network.database}:5432/volenti"
            far.settings["VOLENTI_HOST"] = network.replica
            far.prefix = network.prefix

        with deployed(replicas=2, data=data, settings=settings, arrange=arrange) as deployment:
            near, far = deployment.replicas
            yield Split(deployment, network, far, near)


def listen(server: Embedded, address: str) -> None:
    """From its next start on the database listens on TCP too, for who comes from a test's own network."""
    access, owner = server.data_dir / "access", server.data_dir.stat()
    access.write_text("local all all trust\nhost all all 198.18.0.0/15 trust\n")
    os.chown(access, owner.st_uid, owner.st_gid)

    async def change() -> None:
        connection = await asyncpg.connect(server.url("volenti"))
        await connection.execute(f"ALTER SYSTEM SET listen_addresses = '{address}'")
        await connection.execute(f"ALTER SYSTEM SET hba_file = '{access}'")
        await connection.close()

    asyncio.run(change())


@dataclass
class Probe:
    """Asks a replica ten times a second, whether or not it has answered the times before."""

    client: Client
    replica: Replica
    person: str
    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    """Of each check: when it began, how long it took, the status and the decision."""

    async def ask(self) -> None:
        begun = time.monotonic()
        answer = await self.client.check(self.replica, self.person)
        self.answers.append(
            (begun, time.monotonic() - begun, answer.status_code, answer.json().get("decision", "deny"))
        )

    async def ask_for(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as asked:
            for _ in range(round(seconds * 10)):
                asked.create_task(self.ask())
                await asyncio.sleep(0.1)

    async def until_answered(self) -> float:
        """Ask until a check is answered from the database; returns how long it took."""
        begun = time.monotonic()
        while time.monotonic() - begun < 30:
            await self.ask()
            if self.answers[-1][2] == 200:
                return time.monotonic() - begun
            await asyncio.sleep(0.05)
        raise AssertionError(f"no answer: {self.answers[-1]}")


async def dropped(split: Split) -> float:
    """How long it takes until none of the replica's connections to its database is left."""
    begun = time.monotonic()
    while split.network.connections(split.far.pid, port=5432):
        assert time.monotonic() - begun < 30, "dead connections are kept"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_a_replica_cut_off_from_its_database_permits_nothing_answers_in_time_and_comes_back(split: Split) -> None:
    dice, deployment = seeded(), split.deployment
    for _ in range(rounds(1)):
        await deployment.whole()
        person = f"cus_{dice.randrange(2**32):08x}"
        async with Client(deployment, connections=200) as client:
            (grant,) = await choices(client, deployment, dice, person, 1)
            assert (await client.record(split.near, grant)).status_code == 201
            probe = Probe(client, split.far, person)
            await probe.ask()
            assert probe.answers.pop()[2:] == (200, "permit")
            async with Load(deployment, dice) as load:
                await load.acknowledges(20, seconds=20)
                split.network.cut()
                cut = time.monotonic()
                try:
                    gone, _, beside = await asyncio.gather(
                        dropped(split), probe.ask_for(CUT_SECONDS), load.withdraw(person, split.near)
                    )
                    await asyncio.sleep(dice.uniform(0, 2))
                finally:
                    split.network.heal()
                during = list(probe.answers)
                back = await probe.until_answered()
                await load.acknowledges(20, seconds=20)

        tried = [one for one in load.answered if one.replica is split.far and cut < one.begun < cut + CUT_SECONDS]
        slowest = max(took for _, took, _, _ in during)
        print(
            f"cut off for {time.monotonic() - cut - back:.1f} s: {len(during)} checks, the slowest {slowest:.2f} s;"
            f" {len(tried)} writes, the slowest {max(one.took for one in tried):.1f} s; dead connections dropped after {gone:.1f} s; answers {back:.2f} s after healing"
        )
        assert {decision for _, _, _, decision in probe.answers if decision == "permit"} == set()
        assert {status for _, _, status, _ in during} == {503}
        assert slowest < CHECK_SECONDS
        assert beside, "the other replica is not concerned"
        assert max(one.took for one in tried) < WRITE_SECONDS
        assert gone < DROPPED_SECONDS
        assert back < BACK_SECONDS
        assert probe.answers[-1][3] == "deny", "it was withdrawn meanwhile, on the other side"
        await load.assert_sound()
    await forgotten(split)


async def forgotten(split: Split) -> None:
    """Wait until PostgreSQL has no connection either that the replica has not: each would count for two hours."""
    connection = await asyncpg.connect(split.deployment.database_url())
    try:
        begun = time.monotonic()
        count = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL"
        while await connection.fetchval(count) > split.network.connections(split.far.pid, port=5432):
            assert time.monotonic() - begun < FORGOTTEN_SECONDS, "the database keeps connections that nobody has"
            await asyncio.sleep(0.2)
        print(f"the database forgot the dead connections {time.monotonic() - begun:.1f} s later")
    finally:
        await connection.close()
