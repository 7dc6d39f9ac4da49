"""`volenti doctor`: look at everything that the service stands on, and say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import rich_click as click

from volenti.cli.deployment import Deployment, deployed, passing, settings_of, where
from volenti.cli.main import NEGATIVE, UNREACHABLE
from volenti.errors import Unavailable, VolentiError
from volenti.flows.clock import milliseconds, wall_clock
from volenti.flows.services import Services
from volenti.keys.keyring import read_file
from volenti.settings import Settings
from volenti.store import ledger, schema
from volenti.store.database import translated

SKEW_MS = 2000


@click.command(short_help="Check what the service stands on.")
@where
def doctor(data_dir: str | None, database_url: str | None) -> int:
    """Check settings, keys, database, schema, clocks and ledger heads; exit 1 if something needs you, 3 if it cannot be reached."""
    settings = settings_of(data_dir, database_url)
    with deployed(settings) as deployment:
        outcomes = [_keys(settings), _schema(deployment), *_services(deployment)]
    for code, line in outcomes:
        click.echo(f"{'FIX ' if code else 'ok  '} {line}")
    return max(code for code, _ in outcomes)


Outcome = tuple[int, str]
"""An exit code (0: all is well) and a line."""


def _attempt(what: str, look: Callable[[], str]) -> Outcome:
    try:
        return 0, f"{what}: {look()}"
    except VolentiError as error:
        return _code(error), f"{what}: {error}"


def _code(error: VolentiError) -> int:
    return UNREACHABLE if isinstance(error, Unavailable) else NEGATIVE


def _keys(settings: Settings) -> Outcome:
    return _attempt("keys", lambda: f"{settings.key_path}, ledger key {read_file(settings.key_path).log_key_id}")


def _schema(deployment: Deployment) -> Outcome:
    def look() -> str:
        missing = asyncio.run(schema.pending(deployment.dsn("volenti_app")))
        if missing:
            raise VolentiError(f"{len(missing)} migrations are missing; run: volenti migrate")
        return f"up to date, {len(schema.migrations())} migrations"

    return _attempt("schema", look)


def _services(deployment: Deployment) -> list[Outcome]:
    async def look(services: Services) -> list[Outcome]:
        version, clock = await services.database.about()
        skew = abs(wall_clock() - milliseconds(clock))
        async with services.database.connection("volenti_app") as connection:
            with translated("reading the heads"):
                heads = await ledger.heads(connection)
        outcomes = [
            (0, f"database: PostgreSQL {version}, row-level security holds, commits are durable"),
            (0 if skew <= SKEW_MS else NEGATIVE, f"clocks: service and database are {skew} ms apart"),
        ]
        stopped = [head.origin for head in heads if head.state != "active"]
        outcomes.append(
            (
                NEGATIVE if stopped else 0,
                f"ledgers: {len(heads)}, {sum(head.size for head in heads)} entries"
                + "".join(f"; {origin} is stopped" for origin in stopped),
            )
        )
        if services.settings.profile == "production" and not services.settings.base_url.startswith("https://"):
            outcomes.append((NEGATIVE, "public base URL: production needs https"))
        if services.settings.profile == "production":
            lost = passing(services.settings)
            outcomes += [(NEGATIVE, f"{name}: it goes away with {owner}") for name, owner in lost.items()]
        outcomes.append(await _anchor(services))
        outcomes.append((0, f"journal: {services.settings.journal_path or 'none'}"))
        return outcomes

    try:
        return deployment.run(look)
    except VolentiError as error:
        return [(_code(error), f"database: {error}")]


async def _anchor(services: Services) -> Outcome:
    place = services.settings.anchor_place
    if services.anchor is None:
        return 0, "anchor: none"
    try:
        await services.anchor.check()
        return 0, f"anchor: {place}, can be written"
    except VolentiError as error:
        return _code(error), f"anchor: {place}: {error}"
