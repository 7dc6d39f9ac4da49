"""`volenti workspace`: create workspaces, and list them."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.cli.policy import read_document, show_findings
from volenti.core.policy.lint import lint
from volenti.flows.create_workspace import create
from volenti.flows.profiles import shipped
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.store import workspaces


@click.group(short_help="Workspaces.")
def workspace() -> None:
    """Workspaces: one controller or brand each, with its own ledger, policy, notices, keys and credentials."""


@workspace.command("create")
@click.argument("name")
@click.option("--controller", help="The controller's name in the starter policy; default: the workspace's name.")
@click.option(
    "--policy", "file", type=click.Path(path_type=Path), help="Its first policy, in place of the starter policy."
)
@where
def create_workspace(
    name: str, controller: str | None, file: Path | None, data_dir: str | None, database_url: str | None
) -> int:
    """Create a workspace with its ledger, its key and its first policy; prints its id. Exit 1 if the policy has errors."""
    if file is not None and controller is not None:
        raise click.UsageError("a policy names its controller: give --policy or --controller")
    document = None if file is None else read_document(file)
    if file is not None and document is not None:
        linted = lint(document, shipped())
        show_findings(file, linted.findings)
        if linted.policy is None:
            return 1

    async def work(services: Services) -> str:
        workspace_id = await create(services, name, controller=controller, document=document)
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
