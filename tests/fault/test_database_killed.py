"""The embedded database crashes under load: the service lives on, revives it, and answers 503 meanwhile, never wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from fault.harness import Load, deployed, fault, rounds, seeded

pytestmark = fault

RECOVERY_SECONDS = 10.0
"""How long after the crash the next write must be acknowledged: one second until it is seen, the rest for the recovery."""


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGQUIT, id="stopped immediately")],
)
async def test_a_service_whose_database_crashes_recovers_by_itself_and_loses_nothing(number: signal.Signals) -> None:
    dice = seeded()
    with deployed() as deployment:
        service = deployment.replica.pid
        async with Load(deployment, dice) as load:
            for _ in range(rounds(2)):
                await load.acknowledges(dice.randrange(1, 60), seconds=20)
                await asyncio.sleep(dice.uniform(0, 0.05))
                os.kill(deployment.postmaster(), number)
                await load.acknowledges(20, seconds=RECOVERY_SECONDS)

        assert deployment.replica.running
        assert deployment.replica.pid == service
        assert load.broken == 0, "the service left a request without an answer"
        await load.assert_sound()


async def test_a_backend_that_is_killed_costs_a_retry_and_nothing_else() -> None:
    dice = seeded()
    with deployed() as deployment:
        async with Load(deployment, dice) as load:
            for _ in range(rounds(3)):
                await load.acknowledges(dice.randrange(1, 60), seconds=20)
                os.kill(dice.choice(await deployment.backends()), signal.SIGKILL)
                await load.acknowledges(20, seconds=RECOVERY_SECONDS)

        assert load.broken == 0
        await load.assert_sound()


async def test_nobody_is_permitted_while_the_database_is_away() -> None:
    dice = seeded()
    with deployed() as deployment:
        async with Load(deployment, dice, writers=4) as load:
            await load.acknowledges(20, seconds=20)
            os.kill(deployment.postmaster(), signal.SIGKILL)
            begun, answers = time.monotonic(), len(load.reads)
            await load.acknowledges(20, seconds=RECOVERY_SECONDS)

        determinate = [read for read in load.reads[answers:] if read.started > begun]
        assert determinate, "no check was answered after the recovery"
        await load.assert_sound(replay=False)
