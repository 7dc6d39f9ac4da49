"""Three processes on one database: one dense log, no fork, and what one of them acknowledged holds on the others."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from fault.harness import Client, Load, choices, deployed, fault, rounds, seeded
from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.checkpoint import TreeHead

pytestmark = fault


@pytest.mark.parametrize("people", [3, 60], ids=["the same people", "many people"])
async def test_three_replicas_write_one_dense_log_and_sign_no_fork(people: int) -> None:
    dice = seeded()
    with deployed(replicas=3) as deployment:
        names = [f"cus_{number}" for number in range(people)]
        async with Load(deployment, dice, writers=12, people=names) as load, Client(deployment) as client:
            key = note.parse_vkey((await client.get(deployment.replica, "/v1/ledger/keys")).json()["data"][0]["vkey"])
            signed: dict[int, TreeHead] = {}
            for turn in range(8 * rounds(1)):
                answer = await client.get(deployment.replicas[turn % 3], "/v1/ledger/checkpoint")
                head = checkpoint.verify(answer.raise_for_status().text, [key])
                assert signed.setdefault(head.size, head).root == head.root, f"two roots for size {head.size}"
                await asyncio.sleep(0.25)

            assert len(signed) > 3
            for old, new in itertools.pairwise(sorted(signed)):
                path = f"/v1/ledger/consistency?from={old}&to={new}"
                proof = (await client.get(dice.choice(deployment.replicas), path)).raise_for_status().json()["path"]
                nodes = [bytes.fromhex(node) for node in proof]
                roots = signed[old].root, signed[new].root
                assert merkle.verify_consistency(signed[old].size, signed[new].size, nodes, *roots)
        await load.assert_sound()

        for leaving in deployment.replicas[:2]:
            assert await asyncio.to_thread(leaving.stop) == 0
        assert deployment.database_runs(), "the database belongs to the last replica"
        assert await asyncio.to_thread(deployment.replicas[2].stop) == 0
        assert not deployment.database_runs()


async def test_what_one_replica_acknowledged_holds_on_the_others_at_once() -> None:
    dice = seeded()
    with deployed(replicas=3) as deployment:
        async with Client(deployment) as client:
            for choice in await choices(client, deployment, dice, "cus_1", 10 * rounds(1)):
                writing, *reading = dice.sample(deployment.replicas, 3)
                written = await client.record(writing, choice)
                assert written.status_code == 201, written.text
                seen = {"mode": "at_least", "revision": written.json()["revision"]}

                told, plain = [
                    (await client.check(replica, "cus_1", **members)).json()
                    for replica, members in zip(reading, ({"consistency": seen}, {}), strict=True)
                ]
                expected = ("permit", "consent.granted") if choice.offer else ("deny", "consent.withdrawn")
                assert (told["decision"], told["reason"]) == expected
                assert (plain["decision"], plain["reason"]) == expected
        await deployment.audit()
