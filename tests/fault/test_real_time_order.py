"""Indexes increase in the order in which writes were acknowledged: who was told before another asked stands before it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fault.harness import Load, deployed, fault, rounds, seeded
from fault.histories import ordered_pairs, unordered

pytestmark = fault


async def test_indexes_increase_in_the_real_time_order_of_acknowledgements() -> None:
    dice = seeded()
    with deployed() as deployment:
        for _ in range(rounds(1)):
            async with Load(deployment, dice, writers=16) as load:
                await asyncio.sleep(2.0)
            await load.assert_sound()

            first, last = load.writes[0], max(load.writes, key=lambda write: write.started)
            swapped = [replace(first, first_index=last.first_index), replace(last, first_index=first.first_index)]
            assert ordered_pairs(load.writes) > len(load.writes)
            assert unordered(swapped) != [], "the history has no pair that could contradict"
