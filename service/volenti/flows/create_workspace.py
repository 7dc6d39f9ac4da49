"""Create a workspace: its key, its log, the entry that says so, and its first policy."""

from __future__ import annotations

from uuid import UUID

from volenti.core.policy.lint import lint
from volenti.core.policy.starter import starter_policy
from volenti.errors import Conflict, Invalid, NotFound
from volenti.flows.administer import change
from volenti.flows.profiles import shipped
from volenti.flows.publish_policy import insert
from volenti.flows.services import Services
from volenti.store import ledger, policies, workspaces
from volenti.store.database import Turn, take_turn
from volenti.store.workspaces import Workspace


async def create(services: Services, name: str, *, controller: str | None = None, document: str | None = None) -> UUID:
    """Create a workspace and return its id: all of it or nothing.

    Its first policy is the document, else the starter policy. Raises Conflict if the name is taken, Invalid if it or
    the document does not fit.
    """
    if not (
        1 <= len(name) <= 40
        and all(
            character.isascii() and (character.isdigit() or character.islower() or character == "-")
            for character in name
        )
    ):
        raise Invalid("a workspace's name has 1 to 40 of a-z, 0-9 and -")
    workspace_id = services.new_id()
    key = services.entropy(32)
    wrapped = await services.sealer.wrap_workspace_key(workspace_id.bytes, key)
    text = starter_policy(controller or name) if document is None else document
    linted = lint(text, shipped())
    if linted.policy is None:
        raise Invalid("the controller's name cannot stand in a policy" if document is None else "the policy has errors")
    async with change(services, workspace_id, key) as transaction:
        connection = transaction.connection
        await take_turn(connection, Turn.CREATE, name)  # the name is looked up before it is taken
        try:
            await workspaces.by_name(connection, name)
        except NotFound:
            await workspaces.create(connection, Workspace(workspace_id, name, wrapped))
        else:
            raise Conflict(f"there is a workspace {name} already")
        log_id = await ledger.open_log(connection, workspace_id, f"{services.settings.origin}/{name}")
        await transaction.record(
            "workspace.created",
            {"workspace": str(workspace_id), "name": name},
            entry_id=services.new_id(),
            log_id=log_id,
        )
        now = await policies.now(connection)
        await insert(transaction, linted.policy, text, number=1, active_from=now)
    return workspace_id


async def by_name(services: Services, name: str) -> UUID:
    """The id of a workspace. Raises NotFound."""
    async with services.database.connection("volenti_admin") as connection:
        return (await workspaces.by_name(connection, name)).workspace_id
