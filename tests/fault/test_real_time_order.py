"""Indexes increase in the order in which writes were acknowledged: who was told before another asked stands before it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fault.harness import Load, deployed, fault, rounds, seeded
from fault.histories import ordered_pairs, unordered

pytestmark = fault


@pytest.mark.parametrize("people", [2, 100], ids=["the same people", "many people"])
async def test_indexes_increase_in_the_real_time_order_of_acknowledgements(people: int) -> None:
    dice = seeded()
    with deployed() as deployment:
        for _ in range(rounds(1)):
            async with Load(deployment, dice, writers=16, people=[f"cus_{number}" for number in range(people)]) as load:
                await asyncio.sleep(2.0)
            await load.assert_sound()

            first, last = load.writes[0], max(load.writes, key=lambda write: write.started)
            swapped = [replace(first, first_index=last.first_index), replace(last, first_index=first.first_index)]
            assert ordered_pairs(load.writes) > len(load.writes)
            assert unordered(swapped) != []
