"""`volenti migrate`: bring the database's schema up to date, under its own role."""

from __future__ import annotations

import asyncio

import rich_click as click

from volenti.cli.deployment import deployed, settings_of, where
from volenti.errors import Invalid
from volenti.store import schema


@click.command(short_help="Bring the schema up to date.")
@click.option("--plan", is_flag=True, help="Show what would be applied and change nothing; exit 1 if anything would.")
@click.option(
    "--bootstrap", is_flag=True, help="First create the database roles; the URL must be that of a role that may."
)
@click.option("--migrate-database-url", help="The database as volenti_migrate. [env: VOLENTI_MIGRATE_DATABASE_URL]")
@where
def migrate(
    plan: bool, bootstrap: bool, migrate_database_url: str | None, data_dir: str | None, database_url: str | None
) -> int:
    """Apply the migrations that the database lacks. Safe to run several at once: one applies, the others wait.

    The embedded database is migrated by `volenti serve` itself. With --bootstrap the URL names a role that may create
    roles; it creates those of the service and then applies the migrations as volenti_migrate.
    """
    settings = settings_of(data_dir, database_url, migrate_database_url=migrate_database_url)
    if settings.database_url is None and settings.migrate_database_url is None:
        with deployed(settings, create=not plan) as deployment:
            assert deployment.embedded is not None
            return asyncio.run(_migrate(deployment.embedded.url("volenti_migrate"), plan=plan))
    url = settings.migrate_database_url or settings.database_url
    if url is None:
        raise Invalid("give the database as volenti_migrate: VOLENTI_MIGRATE_DATABASE_URL")
    if bootstrap and not plan:
        asyncio.run(schema.bootstrap(url))
        click.echo("created the roles", err=True)
    return asyncio.run(_migrate(url, plan=plan))


async def _migrate(url: str, *, plan: bool) -> int:
    if plan:
        missing = await schema.pending(url)
        for migration in missing:
            click.echo(migration.name)
        return 1 if missing else 0
    applied = await schema.migrate(url, report=lambda line: click.echo(line, err=True))
    click.echo(f"{len(applied)} applied", err=True)
    return 0
