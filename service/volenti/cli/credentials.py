"""`volenti credentials`: issue, list, revoke and rotate what components call with."""

from __future__ import annotations

from uuid import UUID

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.cli.instants import instant_of
from volenti.errors import Invalid, NotFound
from volenti.flows import manage_credentials
from volenti.flows.clock import instant, milliseconds
from volenti.flows.create_workspace import by_name
from volenti.flows.services import Services
from volenti.store.credentials import Credential, of_workspace


@click.group(short_help="Credentials of components.")
def credentials() -> None:
    """Credentials: each names a workspace, a component and what it may do. Only an HMAC of the secret is stored."""


_workspace = click.option("--workspace", required=True, help="The workspace's name.")


@credentials.command("issue")
@_workspace
@click.option("--component", required=True, help="Who will call with it.")
@click.option("--scope", "scopes", multiple=True, required=True, help="What it may do; repeat for several.")
@click.option("--purpose", "purposes", multiple=True, help="Limit it to these purposes.")
@click.option("--action", "actions", multiple=True, help="Limit checks to these actions.")
@click.option("--expires", metavar="T", help="When it ends (RFC 3339); default: never.")
@where
def issue(
    workspace: str,
    component: str,
    scopes: tuple[str, ...],
    purposes: tuple[str, ...],
    actions: tuple[str, ...],
    expires: str | None,
    data_dir: str | None,
    database_url: str | None,
) -> int:
    """Issue a credential. The secret is printed once, alone, on standard output."""
    expires_at = None if expires is None else instant_of(expires, "--expires")

    async def work(services: Services, workspace_id: UUID) -> manage_credentials.Issued:
        return await manage_credentials.issue(
            services,
            workspace_id,
            component=component,
            scopes=scopes,
            purposes=purposes or None,
            actions=actions or None,
            expires_at=expires_at,
        )

    with deployed(settings_of(data_dir, database_url)) as deployment:
        issued = deployment.change(workspace, work)
    click.echo(f"credential {issued.credential_id}", err=True)
    click.echo(issued.secret)
    return 0


@credentials.command("list")
@_workspace
@where
def list_credentials(workspace: str, data_dir: str | None, database_url: str | None) -> int:
    """List a workspace's credentials: id, component, state and scopes; never a secret."""

    async def work(services: Services) -> list[tuple[Credential, bool]]:
        workspace_id = await by_name(services, workspace)
        async with services.database.workspace("volenti_admin", workspace_id) as connection:
            return [
                (credential, credential.live(instant(services.clock())))
                for credential, _ in await of_workspace(connection, workspace_id)
            ]

    with deployed(settings_of(data_dir, database_url)) as deployment:
        for credential, live in deployment.run(work):
            state = "live" if live else "revoked" if credential.revoked_at is not None else "expired"
            click.echo(f"{credential.credential_id}  {credential.component}  {state}  {','.join(credential.scopes)}")
    return 0


@credentials.command("revoke")
@_workspace
@click.argument("credential")
@where
def revoke(workspace: str, credential: str, data_dir: str | None, database_url: str | None) -> int:
    """Revoke a credential by its id; it is refused everywhere within a second."""

    async def work(services: Services, workspace_id: UUID) -> None:
        await manage_credentials.revoke(services, workspace_id, _uuid(credential))

    with deployed(settings_of(data_dir, database_url)) as deployment:
        deployment.change(workspace, work)
    return 0


@credentials.command("rotate")
@_workspace
@click.argument("credential")
@where
def rotate(workspace: str, credential: str, data_dir: str | None, database_url: str | None) -> int:
    """Issue a new credential with the same rights; the old one stays live until you revoke it."""

    async def work(services: Services, workspace_id: UUID) -> manage_credentials.Issued:
        async with services.database.workspace("volenti_admin", workspace_id) as connection:
            old = next(
                (
                    one
                    for one, _ in await of_workspace(connection, workspace_id)
                    if one.credential_id == _uuid(credential)
                ),
                None,
            )
        if old is None or old.revoked_at is not None:
            raise NotFound("there is no such live credential")
        expires_at = None if old.expires_at is None else milliseconds(old.expires_at)
        return await manage_credentials.issue(
            services,
            workspace_id,
            component=old.component,
            scopes=old.scopes,
            purposes=old.purposes,
            actions=old.actions,
            expires_at=expires_at,
        )

    with deployed(settings_of(data_dir, database_url)) as deployment:
        issued = deployment.change(workspace, work)
    click.echo(f"credential {issued.credential_id}; when it is in use, revoke {credential}", err=True)
    click.echo(issued.secret)
    return 0


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("a credential's id is a UUID, as `volenti credentials list` shows it") from None
