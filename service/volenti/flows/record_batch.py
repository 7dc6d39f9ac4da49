"""Record the choices of many people in one call: each write alone, all or nothing, those of one person in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.admission import Command
from volenti.core.data_subject import Identifier
from volenti.core.identifier import match_key
from volenti.errors import Invalid, Unavailable, VolentiError
from volenti.flows.record_consents import Recording, Retry, record
from volenti.flows.services import Services

LANES = 16
"""People who are written at the same moment: more would only queue for the database's connections, and time out."""


class Write(msgspec.Struct, frozen=True):
    """What `record` takes."""

    command: Command
    who: tuple[Identifier, ...]
    retry: Retry | None


Outcome: TypeAlias = Recording | VolentiError


async def record_batch(services: Services, workspace_id: UUID, writes: Sequence[Write]) -> list[Outcome]:
    """What became of each write, in their order; an error stands in the place of a write that raised it.

    Writes that name an identifier in common are one person's, and are recorded one after the other; after one whose
    outcome is unknown the rest are not tried, since a retry of the first would then come last. The service cannot know
    that two writes with different identifiers are one person's: such a person's order is not kept.
    """
    outcomes: dict[int, Outcome] = {}
    room = asyncio.Semaphore(LANES)

    async def drive(lane: Sequence[int]) -> None:
        async with room:
            for position in lane:
                write = writes[position]
                try:
                    outcomes[position] = await record(services, workspace_id, write.command, write.who, write.retry)
                except Unavailable as error:
                    outcomes[position] = error
                    break
                except VolentiError as error:
                    outcomes[position] = error

    await asyncio.gather(*(drive(lane) for lane in lanes(writes)))
    untried = Unavailable("an earlier item of this person was not recorded; retry with the same key")
    return [outcomes.get(position, untried) for position in range(len(writes))]


def lanes(writes: Sequence[Write]) -> list[list[int]]:
    """The positions of the writes, together where they name an identifier in common, also by way of others."""
    found: dict[tuple[str, str], list[int]] = {}
    for position, write in enumerate(writes):
        names = [_name(one) for one in write.who]
        shared = {id(lane): lane for name in names if (lane := found.get(name)) is not None}
        lane = sorted({position}.union(*shared.values()))
        for name in {*names, *(name for name, other in found.items() if id(other) in shared)}:
            found[name] = lane
    return sorted({id(lane): lane for lane in found.values()}.values())


def _name(identifier: Identifier) -> tuple[str, str]:
    """What tells identifiers apart: two spellings of an address are one. A malformed one is refused when it is written."""
    try:
        return identifier.type, match_key(identifier.type, identifier.value)
    except Invalid:
        return identifier.type, identifier.value
