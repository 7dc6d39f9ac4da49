"""SIGKILL of the service at any moment under load: what was acknowledged is there, and a retry has no second effect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fault.harness import Deployment, Load, deployed, fault, rounds, seeded

pytestmark = fault


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


async def test_what_was_acknowledged_survives_a_service_that_is_killed_at_any_moment(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(3)):
            await load.acknowledges(dice.randrange(1, 60), seconds=20)
            await asyncio.sleep(dice.uniform(0, 0.05))
            deployment.replica.kill()
            await asyncio.to_thread(deployment.replica.start)
        await load.acknowledges(20, seconds=20)

    assert load.broken > 0, "no attempt was cut off: the rounds proved nothing"
    await load.assert_sound()
    await deployment.audit_by_command()


async def test_service_and_database_killed_at_the_same_moment_lose_nothing(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(2)):
            await load.acknowledges(dice.randrange(1, 60), seconds=20)
            deployment.kill_both()
            await asyncio.to_thread(deployment.replica.start)
        await load.acknowledges(20, seconds=20)

    await load.assert_sound()


async def test_workers_do_not_outlive_a_parent_that_is_killed() -> None:
    dice = seeded()
    with deployed(workers=2) as deployment:
        async with Load(deployment, dice) as load:
            for _ in range(rounds(1)):
                await load.acknowledges(20, seconds=20)
                workers = deployment.replica.workers()
                assert len(workers) == 2
                deployment.replica.kill()
                await deployment.gone(workers, seconds=15)
                await asyncio.to_thread(deployment.replica.start)
            await load.acknowledges(20, seconds=20)

        await load.assert_sound()
