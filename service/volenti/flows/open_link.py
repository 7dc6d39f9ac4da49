"""Whom a link is for, and the policy that is in force for them."""

from __future__ import annotations

from uuid import UUID

import msgspec

from volenti.core.policy.compile import CompiledPolicy
from volenti.errors import NotFound
from volenti.flows.find_data_subject import Person, find, open_person
from volenti.flows.services import Services
from volenti.store import data_subjects


class NoLink(msgspec.Struct, frozen=True):
    """The text is no link of this deployment, or whom it was for is not there: one answer for all of these."""


async def open_link(services: Services, workspace_id: UUID, holder: UUID) -> tuple[Person, CompiledPolicy] | None:
    """The person and the policy; None if either is not there. Changes nothing. Raises Unavailable without a database."""
    try:
        ground = (await find(services, workspace_id, ())).ground
        async with services.database.workspace("volenti_app", workspace_id) as connection:
            row = await data_subjects.by_holder(connection, workspace_id, holder)
        person = open_person(workspace_id, await services.workspace_key(workspace_id), row)
    except NotFound:
        return None
    policy = await services.policy(workspace_id, ground)
    return None if policy is None else (person, policy)
