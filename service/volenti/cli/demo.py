"""`volenti serve --demo`: a workspace to play with, a person who consented, a credential and the first question."""

from __future__ import annotations

import itertools
from uuid import UUID

from volenti.core.admission import Choice, Command
from volenti.core.consent import settle
from volenti.core.data_subject import Identifier
from volenti.errors import NotFound
from volenti.flows.create_workspace import by_name, create
from volenti.flows.find_data_subject import find
from volenti.flows.manage_credentials import issue, revoke
from volenti.flows.record_consents import record
from volenti.flows.services import Services
from volenti.store import credentials

WORKSPACE = "demo"
COMPONENT = "demo"
PERSON = "cus_demo"
SCOPES = (
    "check",
    "decisions:read",
    "consents:write",
    "consents:read",
    "preferences:write",
    "links:create",
    "data_subjects:erase",
    "policy:read",
    "policy:write",
    "ledger:read",
    "audit:export",
    "admin",
)


async def seed(services: Services, base_url: str) -> str:
    """Seed what is missing; returns what to print. The credential is new at each start, the one of the start before is revoked."""
    try:
        workspace_id = await by_name(services, WORKSPACE)
    except NotFound:
        workspace_id = await create(services, WORKSPACE, controller="Demo GmbH")
    person = await _consenting_person(services, workspace_id)
    async with services.database.workspace("volenti_admin", workspace_id) as connection:
        earlier = [
            one
            for one, _ in await credentials.of_workspace(connection, workspace_id)
            if one.component == COMPONENT and one.revoked_at is None
        ]
    for credential in earlier:
        await revoke(services, workspace_id, credential.credential_id)
    issued = await issue(services, workspace_id, component=COMPONENT, scopes=SCOPES)
    return f"""
Volenti on {base_url}

  workspace    {WORKSPACE}
  credential   {issued.secret}
  API          {base_url}/schema

May the newsletter be sent to {person}, by e-mail, now?

  curl -s {base_url}/v1/check -H 'Authorization: Bearer {issued.secret}' -H 'Content-Type: application/json' -d '{{"data_subject": {{"id": "{person}"}}, "action": "send", "purpose": "newsletter", "channel": "email"}}'
"""


async def _consenting_person(services: Services, workspace_id: UUID) -> str:
    """The id of a person whose newsletter consent is in force: the seeded one, or a new one if that one withdrew."""
    for number in itertools.count(1):
        person = PERSON if number == 1 else f"{PERSON}_{number}"
        found = (await find(services, workspace_id, (Identifier("id", person),))).person
        state = "unknown" if found is None else settle(found.state.on("newsletter"), "email").state
        if state == "granted":
            return person
        if state == "unknown":
            grant = Choice(
                kind="grant", purpose="newsletter", channels=("email",), notice="newsletter@1", language="en"
            )
            command = Command(
                actor="data_subject",
                component=COMPONENT,
                choices=(grant,),
                method="web_form",
                surface="https://shop.example/signup",
            )
            await record(services, workspace_id, command, (Identifier("id", person),))
            return person
    raise AssertionError
