"""`volenti workspace`: create workspaces, and list them."""

from __future__ import annotations

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.flows.create_workspace import create
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.store import workspaces


@click.group(short_help="Workspaces.")
def workspace() -> None:
    """Workspaces: one controller or brand each, with its own ledger, policy, notices, keys and credentials."""


@workspace.command("create")
@click.argument("name")
@click.option("--controller", help="The controller's name in the starter policy; default: the workspace's name.")
@where
def create_workspace(name: str, controller: str | None, data_dir: str | None, database_url: str | None) -> int:
    """Create a workspace with its ledger, its key and the starter policy; prints its id."""

    async def work(services: Services) -> str:
        workspace_id = await create(services, name, controller=controller)
        await sign(services, workspace_id)
        return str(workspace_id)

    with deployed(settings_of(data_dir, database_url), create=True) as deployment:
        click.echo(deployment.run(work))
    return 0


@workspace.command("list")
@where
def list_workspaces(data_dir: str | None, database_url: str | None) -> int:
    """List the workspaces: name and id."""

    async def work(services: Services) -> list[workspaces.Workspace]:
        async with services.database.connection("volenti_admin") as connection:
            return await workspaces.names(connection)

    with deployed(settings_of(data_dir, database_url)) as deployment:
        for one in deployment.run(work):
            click.echo(f"{one.name}  {one.workspace_id}")
    return 0
