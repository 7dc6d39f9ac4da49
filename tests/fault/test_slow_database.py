"""A database that is slow, silent or cut off again and again, seen through a proxy: in time or refused, and never wrong."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest

from deployments import fresh
from fault.harness import LONG, Deployment, Load, deployed, fault, rounds, seeded
from fault.pgproxy import Plan, Proxy, proxied_aside

pytestmark = fault

FAULT_SECONDS = 3.0
BACK_SECONDS = 10.0
"""A statement that was swallowed is given up after 7 s, an append's as well; reads after 2 s."""
WRITE_SECONDS = 11.0
"""An append is answered within 10 s."""
CHECK_SECONDS = 3.5
"""A second to find out who asks, and one for the answer; the rest is a busy machine's."""


@dataclass
class Far:
    """A deployment that reaches its database through a proxy."""

    deployment: Deployment
    proxy: Proxy


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    with fresh() as server, tempfile.TemporaryDirectory(prefix="volenti-proxy-") as folder:
        target = Path(server.url("volenti").partition("host=")[2].partition("&")[0])
        with proxied_aside(target, Path(folder)) as proxy:
            beside = {f"VOLENTI_{name.upper()}": str(server.data_dir / name) for name in ("anchor", "journal")}
            with deployed(
                data=server.data_dir, settings={"VOLENTI_DATABASE_URL": proxy.url("volenti"), **beside}
            ) as deployment:
                yield Far(deployment, proxy)
                proxy.plan = Plan()


FAULTS = {
    "latency": Plan("latency", seconds=0.5, jitter=0.1),
    "black_hole": Plan("black_hole"),
    "reset": Plan("reset"),
    "cut_after_bytes": Plan("cut_after_bytes", byte_count=6000),
    "freeze_answers": Plan("freeze_answers", seconds=60),
    "freeze_requests": Plan("freeze_requests", seconds=60),
}


@pytest.mark.parametrize("name", FAULTS if LONG else ("latency", "black_hole", "cut_after_bytes"))
async def test_under_a_bad_connection_every_request_is_answered_in_time_and_nothing_is_lost(
    far: Far, name: str
) -> None:
    dice, deployment = seeded(), far.deployment
    await deployment.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            known = len(load.writes)
            far.proxy.plan = replace(FAULTS[name])
            begun, queued = time.monotonic(), 0
            while time.monotonic() < begun + FAULT_SECONDS:
                queued = max(queued, deployment.replica.inside()["queued"])
                await asyncio.sleep(0.2)
            hits, during = far.proxy.plan.hits, len(load.writes) - known
            far.proxy.plan = Plan()
            took = await load.acknowledges(20, seconds=BACK_SECONDS + 5)
            told = [one for one in load.answered if one.begun > begun]
            checks = [one for one in told if one.path == "/v1/check"]
            writes = [one for one in told if one.path == "/v1/consents"]
            print(
                f"{name}: hit {hits} times; {during} writes meanwhile, at most {queued} entries queued; slowest write"
                f" {max(one.took for one in writes):.1f} s, check {max(one.took for one in checks):.1f} s;"
                f" 20 writes {took:.1f} s after"
            )
            assert hits > 0, "the fault met nobody"
            assert queued <= 2 * 8, "what waits grows beyond what the callers wait for"
            assert max(one.took for one in writes) < WRITE_SECONDS
            assert max(one.took for one in checks) < CHECK_SECONDS
            if name == "latency":
                assert during > 0, "half a second more is no reason to refuse everything"

    assert load.broken == 0
    await load.assert_sound()


async def test_a_signer_whose_connections_are_dead_costs_neither_writes_nor_checks_and_catches_up(far: Far) -> None:
    dice, deployment = seeded(), far.deployment
    await deployment.whole()
    async with Load(deployment, dice) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(20, seconds=20)
            far.proxy.plan = Plan("black_hole", application="volenti_signer")
            await asyncio.sleep(0.5)
            signed, begun = await signed_size(deployment), time.monotonic()
            await load.acknowledges(40, seconds=20)
            assert await signed_size(deployment) == signed, "it was to be cut off"
            assert {one.status for one in load.answered if one.begun > begun} <= {200, 201}
            far.proxy.plan = Plan()
            healed = time.monotonic()
            while await signed_size(deployment) < signed + 40:
                assert time.monotonic() - healed < BACK_SECONDS, "nothing is signed again"
                await asyncio.sleep(0.1)
            print(f"signed again {time.monotonic() - healed:.1f} s after healing")

    await load.assert_sound()


async def signed_size(deployment: Deployment) -> int:
    """The size of the newest signed tree head."""
    connection = await asyncpg.connect(deployment.database_url())
    try:
        return int(await connection.fetchval("SELECT max(size) FROM volenti.ledger_checkpoint"))
    finally:
        await connection.close()
