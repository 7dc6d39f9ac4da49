"""A stop by SIGTERM or SIGINT: what is in flight is answered, nothing is left running, and the exit code is 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from fault.harness import Load, deployed, fault, rounds, seeded

pytestmark = fault

STOP_SECONDS = 15.0
both = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@both
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_a_stop_under_load_answers_what_it_wrote_and_leaves_nothing_running(
    number: signal.Signals, workers: int
) -> None:
    dice = seeded()
    with deployed(workers=workers) as deployment:
        for _ in range(rounds(1)):
            processes = deployment.replica.workers()
            async with Load(deployment, dice, again=False) as load:
                await load.acknowledges(dice.randrange(30, 60), seconds=20)
                begun = time.monotonic()
                code = await asyncio.to_thread(deployment.replica.stop, number)
                took = time.monotonic() - begun

            assert (code, took < STOP_SECONDS) == (0, True)
            assert not deployment.database_runs()
            assert len(processes) == (0 if workers == 1 else workers)
            await deployment.gone(processes, seconds=1)
            await asyncio.to_thread(deployment.replica.start)
            await load.assert_sound()


@both
async def test_a_stop_at_any_moment_of_a_start_ends_it_with_0_and_leaves_nothing_running(
    number: signal.Signals,
) -> None:
    dice = seeded()
    with deployed() as deployment:
        assert deployment.replica.stop() == 0
        for _ in range(rounds(4)):
            output = deployment.replica.spawn()
            await deployment.replica.loaded()
            await asyncio.sleep(dice.uniform(0, 1.0))

            assert await asyncio.to_thread(deployment.replica.stop, number) == 0, deployment.replica.log.read_text()
            assert not deployment.database_runs(), output


async def test_a_worker_that_is_killed_is_replaced_and_the_service_goes_on() -> None:
    dice = seeded()
    with deployed(workers=2) as deployment:
        async with Load(deployment, dice) as load:
            for _ in range(rounds(1)):
                await load.acknowledges(20, seconds=20)
                before = deployment.replica.workers()
                os.kill(dice.choice(before), signal.SIGKILL)
                await load.acknowledges(20, seconds=20)
                after = await deployment.replica.replaced(before, seconds=15)
                assert len(after) == 2

        await load.assert_sound()
        assert await asyncio.to_thread(deployment.replica.stop) == 0
        assert not deployment.database_runs()


async def test_a_worker_and_the_database_killed_at_once_are_both_replaced() -> None:
    dice = seeded()
    with deployed(workers=2) as deployment:
        async with Load(deployment, dice) as load:
            await load.acknowledges(20, seconds=20)
            before = deployment.replica.workers()
            os.kill(deployment.postmaster(), signal.SIGKILL)
            os.kill(before[0], signal.SIGKILL)
            await deployment.replica.replaced(before, seconds=15)
            await load.acknowledges(20, seconds=15)

        await load.assert_sound(replay=False)
