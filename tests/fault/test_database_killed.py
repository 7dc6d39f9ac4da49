"""The embedded database crashes under load: the service lives on, revives it, and answers 503 meanwhile, never wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from fault.harness import Client, Deployment, Load, choices, deployed, fault, rounds, seeded

pytestmark = fault

RECOVERY_SECONDS = 20.0
"""How long after a crash the next writes may take: one second until it is seen, the rest for a recovery on a busy machine."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT], ids=["killed", "stopped in immediate mode"])
async def test_a_service_whose_database_crashes_recovers_by_itself_and_loses_nothing(
    shared: Deployment, number: signal.Signals
) -> None:
    dice, deployment = seeded(), await shared.whole()
    service = deployment.replica.pid
    async with Load(deployment, dice) as load:
        for _ in range(rounds(2)):
            await load.acknowledges(dice.randrange(1, 60), seconds=20)
            await asyncio.sleep(dice.uniform(0, 0.05))
            deployment.kill_database(number)
            took = await load.acknowledges(20, seconds=RECOVERY_SECONDS)
            print(f"20 writes were acknowledged {took:.1f} s after the crash")

    assert deployment.replica.running
    assert deployment.replica.pid == service
    assert load.broken == 0, "the service left a request without an answer"
    await load.assert_sound()


async def test_a_backend_that_is_killed_costs_a_retry_and_nothing_else(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(2)):
            await load.acknowledges(dice.randrange(1, 60), seconds=20)
            os.kill(dice.choice(await deployment.backends()), signal.SIGKILL)
            await load.acknowledges(20, seconds=RECOVERY_SECONDS)

    assert load.broken == 0
    await load.assert_sound()


async def test_nobody_is_permitted_while_the_database_is_away(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    person = f"cus_{dice.randrange(2**32):08x}"
    async with Client(deployment) as client:
        (grant,) = await choices(client, deployment, dice, person, 1)
        assert (await client.record(deployment.replica, grant)).status_code == 201
        assert (await client.check(deployment.replica, person)).json()["decision"] == "permit"

        await deployment.gone([deployment.kill_database()], seconds=5)
        away, deadline = 0, time.monotonic() + RECOVERY_SECONDS
        while (answer := await client.check(deployment.replica, person)).status_code != 200:
            assert answer.status_code == 503
            assert answer.json().get("decision", "deny") == "deny"
            away += 1
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.02)

        assert away > 0
        assert answer.json()["decision"] == "permit", "it is the same consent, and it is back"
