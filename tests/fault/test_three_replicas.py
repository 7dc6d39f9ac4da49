"""Three processes on one database: one dense log, no fork, and what one of them acknowledged holds on the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from fault.harness import Client, Deployment, Load, choices, deployed, fault, rounds, seeded
from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.checkpoint import TreeHead

pytestmark = fault


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    with deployed(replicas=3) as deployment:
        yield deployment


async def test_three_replicas_write_one_dense_log_and_sign_no_fork(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice, writers=12) as load, Client(deployment) as client:
        keys = (await client.get(deployment.replica, "/v1/ledger/keys")).json()["data"]
        key = note.parse_vkey(keys[0]["vkey"])
        signed: dict[int, TreeHead] = {}
        for turn in range(10 * rounds(1)):
            answer = await client.get(deployment.replicas[turn % 3], "/v1/ledger/checkpoint")
            head = checkpoint.verify(answer.raise_for_status().text, [key])
            assert signed.setdefault(head.size, head).root == head.root, f"two roots for size {head.size}"
            await asyncio.sleep(0.3)

        assert len(signed) > 3
        for old, new in itertools.pairwise(sorted(signed)):
            answer = await client.get(dice.choice(deployment.replicas), f"/v1/ledger/consistency?from={old}&to={new}")
            path = [bytes.fromhex(node) for node in answer.raise_for_status().json()["path"]]
            roots = signed[old].root, signed[new].root
            assert merkle.verify_consistency(signed[old].size, signed[new].size, path, *roots)

    await load.assert_sound()
    await deployment.audit_by_command()


async def test_what_one_replica_acknowledged_holds_on_the_others_at_once(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    person = f"cus_{dice.randrange(2**32):08x}"
    async with Client(deployment) as client:
        for choice in await choices(client, deployment, dice, person, 10 * rounds(1)):
            writing, *reading = dice.sample(deployment.replicas, 3)
            written = await client.record(writing, choice)
            assert written.status_code == 201, written.text
            at_least = {"mode": "at_least", "revision": written.json()["revision"]}

            told, plain = [
                (await client.check(replica, person, **members)).json()
                for replica, members in zip(reading, ({"consistency": at_least}, {}), strict=True)
            ]
            expected = ("permit", "consent.granted") if choice.offer else ("deny", "consent.withdrawn")
            assert (told["decision"], told["reason"]) == expected
            assert (plain["decision"], plain["reason"]) == expected


async def test_a_replica_that_is_killed_costs_the_others_nothing(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    async with Load(deployment, dice, writers=9) as load:
        for _ in range(rounds(1)):
            await load.acknowledges(dice.randrange(10, 40), seconds=20)
            dice.choice(deployment.replicas).kill()
            await load.acknowledges(20, seconds=10)
            await deployment.whole()

    await load.assert_sound()


async def test_the_last_replica_to_leave_stops_the_database(shared: Deployment) -> None:
    dice, deployment = seeded(), await shared.whole()
    first, second, last = dice.sample(deployment.replicas, 3)
    for leaving in (first, second):
        assert await asyncio.to_thread(leaving.stop) == 0
        assert deployment.database_runs(), "the others use it"
    async with Client(deployment) as client:
        assert (await client.get(last, "/readyz")).status_code == 200

    assert await asyncio.to_thread(last.stop) == 0
    assert not deployment.database_runs()
