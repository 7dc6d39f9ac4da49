"""A stop by SIGTERM or SIGINT: what is in flight is answered, nothing is left running, and the exit code is 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from fault.harness import Deployment, Load, deployed, fault, rounds, seeded
from volenti.cli.main import UNREACHABLE

pytestmark = fault

STOP_SECONDS = 20.0


@pytest.fixture(scope="module")
def one_process() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Deployment]:
    with deployed(workers=2) as deployment:
        yield deployment


async def stop_under_load(deployment: Deployment, number: signal.Signals) -> None:
    """Nobody tries again, so that an entry whose writer got no answer would be one that answers no key."""
    dice = seeded()
    for _ in range(rounds(1)):
        await deployment.whole()
        workers = deployment.replica.workers()
        async with Load(deployment, dice, again=False) as load:
            await load.acknowledges(dice.randrange(20, 60), seconds=20)
            begun = time.monotonic()
            code = await asyncio.to_thread(deployment.replica.stop, number)
            took = time.monotonic() - begun

        assert code == 0, deployment.story()
        assert took < STOP_SECONDS
        assert not deployment.database_runs()
        await deployment.gone(workers, seconds=1)
        await deployment.whole()
        await load.assert_sound()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stop_under_load_answers_what_it_wrote_and_leaves_nothing_running(
    one_process: Deployment, number: signal.Signals
) -> None:
    await stop_under_load(one_process, number)


async def test_a_stop_of_the_parent_ends_all_workers_and_they_answer_what_they_wrote(two_workers: Deployment) -> None:
    await stop_under_load(two_workers, signal.SIGTERM)


async def test_a_stop_at_any_moment_of_a_start_is_neither_lost_nor_leaves_anything_running(
    one_process: Deployment,
) -> None:
    dice, replica = seeded(), one_process.replica
    if replica.running:
        assert await asyncio.to_thread(replica.stop) == 0
    for _ in range(rounds(3)):
        replica.spawn()
        await replica.begun()
        await asyncio.sleep(dice.uniform(0, 1.0))

        number = dice.choice((signal.SIGTERM, signal.SIGINT))
        assert await asyncio.to_thread(replica.stop, number) == 0, f"{number!r}: {one_process.story()}"
        assert not one_process.database_runs()


async def test_a_worker_that_is_killed_is_replaced_and_the_service_goes_on(two_workers: Deployment) -> None:
    dice, deployment = seeded(), await two_workers.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            before = deployment.replica.workers()
            os.kill(dice.choice(before), signal.SIGKILL)
            await load.acknowledges(20, seconds=20)
            await deployment.replica.replaced(before, seconds=20)

    await load.assert_sound()


async def test_a_worker_that_comes_up_while_the_database_is_away_waits_for_it(two_workers: Deployment) -> None:
    dice, deployment = seeded(), await two_workers.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            before = deployment.replica.workers()
            os.kill(dice.choice(before), signal.SIGKILL)
            await deployment.replica.replaced(before, seconds=20)
            for _ in range(3):  # each time as soon as it is back, so that the new worker meets it away
                await deployment.gone([await asyncio.to_thread(deployment.kill_database)], seconds=5)
            await load.acknowledges(20, seconds=20)
            assert deployment.replica.running

    await load.assert_sound()


async def test_a_service_whose_worker_cannot_start_ends_with_an_exit_code_that_says_so(two_workers: Deployment) -> None:
    deployment = await two_workers.whole()
    keys = deployment.data / "keys.json"
    away = keys.rename(keys.with_name("away.json"))
    try:
        os.kill(deployment.replica.workers()[0], signal.SIGKILL)
        code = await asyncio.to_thread(deployment.replica.wait)
    finally:
        away.rename(keys)

    assert code == UNREACHABLE
    assert not deployment.database_runs()
