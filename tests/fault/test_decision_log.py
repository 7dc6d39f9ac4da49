"""The decision log of a process that ends: a stop loses nothing, a kill only what was decided a moment before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from fault.harness import Client, Deployment, deployed, fault, rounds

pytestmark = fault

WRITTEN_SECONDS = 3.0
"""Within this a row is written also on a busy machine; the service takes a fifth of a second."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


async def decided(deployment: Deployment, count: int) -> set[UUID]:
    """Ask so often at once; the ids of the decisions."""
    async with Client(deployment) as client:
        answers = await asyncio.gather(*(client.check(deployment.replica, f"cus_{n}") for n in range(count)))
    return {UUID(answer.json()["decision_id"].removeprefix("dec_")) for answer in answers}


async def logged(deployment: Deployment) -> set[UUID]:
    connection = await asyncpg.connect(deployment.database_url())
    try:
        return {row[0] for row in await connection.fetch("SELECT decision_id FROM volenti.decision_log")}
    finally:
        await connection.close()


async def test_a_stop_right_after_its_checks_leaves_every_row(deployment: Deployment) -> None:
    for _ in range(rounds(2)):
        await deployment.whole()
        made = await decided(deployment, 40)
        assert await asyncio.to_thread(deployment.replica.stop) == 0, deployment.story()
        await deployment.whole()

        assert made <= await logged(deployment)


async def test_a_kill_loses_no_row_that_was_written_and_the_next_start_goes_on(deployment: Deployment) -> None:
    for _ in range(rounds(2)):
        await deployment.whole()
        made = await decided(deployment, 40)
        await asyncio.sleep(WRITTEN_SECONDS)
        await decided(deployment, 20)
        await asyncio.to_thread(deployment.replica.kill)
        await deployment.whole()
        after = await decided(deployment, 10)
        await asyncio.sleep(WRITTEN_SECONDS)

        rows = await logged(deployment)
        assert made | after <= rows
