"""Processes that stand still (SIGSTOP): a backend that holds a log's head, the backend of an append, a whole replica."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import asyncpg
import pytest

from fault.harness import Choice, Client, Deployment, Load, choices, deployed, fault, rounds, seeded
from volenti.flows.create_workspace import by_name, create
from volenti.flows.manage_credentials import SCOPES, issue, revoke

pytestmark = fault

LOCK_SECONDS = 5.5
"""The lock timeout of 2 s holds for each of two locks, the row's and its holder's; the rest is a busy machine's."""
STUCK_SECONDS = 9.0
"""Longer than the client's own deadline of 7 s for a statement."""
SUSPENDED_SECONDS = float(os.environ.get("VOLENTI_FAULT_SUSPENDED", "4"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    with deployed(replicas=2) as deployment:
        yield deployment


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still for as long as the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def head_held(deployment: Deployment, workspace: UUID) -> AsyncIterator[None]:
    """Another client holds the lock of a log's head in a transaction, and its backend stands still."""
    holder = await asyncpg.connect(deployment.database_url())
    try:
        pid = await holder.fetchval("SELECT pg_backend_pid()")
        async with holder.transaction():
            await holder.execute("SELECT FROM volenti.ledger_head WHERE workspace_id = $1 FOR UPDATE", workspace)
            with stopped(pid):
                yield
    finally:
        await holder.close()


async def secret_of(deployment: Deployment, name: str) -> str:
    """A credential of another workspace."""
    async with deployment.services() as services:
        return (await issue(services, await create(services, name), component="tests", scopes=SCOPES)).secret


async def test_a_frozen_holder_of_one_workspaces_head_costs_its_writers_a_503_and_the_others_nothing(
    shared: Deployment,
) -> None:
    dice, deployment = seeded(), await shared.whole()
    name = f"other-{dice.randrange(2**32):08x}"
    secret = await secret_of(deployment, name)
    async with deployment.services() as services:
        demo = await by_name(services, "demo")
    async with Client(deployment, secret=secret) as other, Load(deployment, dice) as load:
        for number in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            async with head_held(deployment, demo):
                frozen = time.monotonic()
                elsewhere: list[float] = []
                while time.monotonic() < frozen + LOCK_SECONDS:
                    begun = time.monotonic()
                    key = f"{number}-{len(elsewhere)}"
                    answer = await other.record(dice.choice(deployment.replicas), Choice(key, f"cus_{key}", None))
                    assert answer.status_code == 201, answer.text
                    elsewhere.append(time.monotonic() - begun)
            thawed = time.monotonic()
            await load.acknowledges(20, seconds=20)

            held = [one for one in load.answered if one.begun < thawed and one.begun + one.took > frozen]
            refused = [one for one in held if one.status == 503]
            assert refused, "nobody met the lock"
            assert min(one.took for one in refused) < LOCK_SECONDS, "who waits behind the first waits once more"
            assert 200 in {one.status for one in held if one.path == "/v1/check"}, "a check takes no lock"
            print(
                f"{len(refused)} writes refused, after {max(one.took for one in refused):.1f} s at most; meanwhile"
                f" {len(elsewhere)} writes elsewhere, the slowest {max(elsewhere):.2f} s"
            )
            assert max(elsewhere) < 1.5

    await load.assert_sound()


async def test_an_append_whose_own_backend_stands_still_is_unknown_to_its_callers_and_written_once(
    shared: Deployment,
) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            with stopped(await appending(deployment)):
                frozen = time.monotonic()
                await asyncio.sleep(STUCK_SECONDS)
            await load.acknowledges(20, seconds=20)
            met = [one for one in load.answered if one.took > STUCK_SECONDS - 3 and one.begun + one.took > frozen]
            print(f"{len(met)} writes met the backend that stood still, answered {sorted(one.status for one in met)}")
            assert met, "nobody waited for that backend"

    assert load.broken == 0
    await load.assert_sound()


async def appending(deployment: Deployment) -> int:
    """The backend of an append in flight that has the lock, or is about to take it."""
    connection = await asyncpg.connect(deployment.database_url())
    try:
        async with asyncio.timeout(20):
            while True:
                pid = await connection.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'volenti_app' AND state = 'active'"
                    " AND query LIKE '%ledger_append%' AND wait_event_type IS DISTINCT FROM 'Lock'"
                )
                if pid is not None:
                    return int(pid)
    finally:
        await connection.close()


async def test_a_replica_that_was_suspended_knows_what_was_taken_back_meanwhile(shared: Deployment) -> None:
    """What it answers to requests that came while it stood still: they began after the withdrawal was acknowledged."""
    dice, deployment = seeded(), await shared.whole()
    awake, suspended = deployment.replicas
    for _ in range(rounds(1)):
        people = [f"cus_{dice.randrange(2**32):08x}" for _ in range(5)]
        async with deployment.services() as services, Client(deployment, keep=False) as client:
            demo = await by_name(services, "demo")
            issued = await issue(services, demo, component="tests", scopes=SCOPES)
            async with Client(deployment, secret=issued.secret, keep=False) as revoked:
                for person in people:
                    grant, _ = await choices(client, deployment, dice, person, 2)
                    assert (await client.record(awake, grant)).status_code == 201
                    assert (await client.check(suspended, person)).json()["decision"] == "permit"
                    assert (await revoked.check(suspended, person)).json()["decision"] == "permit"
                begun = time.monotonic()
                with stopped(suspended.pid):
                    for person in people:
                        assert (await client.record(awake, Choice(f"{person}-w", person, None))).status_code == 201
                    await revoke(services, demo, UUID(issued.credential_id))
                    early = [asyncio.create_task(one.check(suspended, people[0])) for one in (client, revoked)]
                    await asyncio.sleep(max(0.0, SUSPENDED_SECONDS - (time.monotonic() - begun)))
                    asked = [asyncio.create_task(client.check(suspended, person)) for person in people]
                    late = asyncio.create_task(revoked.check(suspended, people[1]))
                    await asyncio.sleep(0.2)
                answers = [(await one).json() for one in (early[0], *asked)]

        assert [answer["decision"] for answer in answers] == ["deny"] * 6
        assert {answer["reason"] for answer in answers} <= {
            "consent.withdrawn",
            "system.deadline_exceeded",
            "system.state_stale",
        }
        assert [(await one).status_code for one in (early[1], late)] == [401, 401], "a revoked credential is remembered"
    await deployment.audit()
    await deployment.settled()
