"""Where a command works: the embedded PostgreSQL of a data directory, or the database that a URL names."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import rich_click as click

from volenti.errors import Conflict, Invalid
from volenti.flows.create_workspace import by_name
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import sign
from volenti.keys import keyring
from volenti.settings import Settings, load
from volenti.store import embedded, schema
from volenti.store.durable import goes_with

T = TypeVar("T")


class Deployment:
    """A reachable database with its schema. `embedded` is None where the database is somebody else's."""

    def __init__(self, settings: Settings, dsn: Callable[[str], str], server: embedded.Embedded | None) -> None:
        self.settings, self.dsn, self.embedded = settings, dsn, server

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        """The services, opened for a command."""
        async with opened(self.settings, self.dsn) as services:
            yield services

    def run(self, work: Callable[[Services], Coroutine[Any, Any, T]]) -> T:
        """Run a command's work over the services in an event loop of its own."""

        async def all_of_it() -> T:
            async with self.services() as services:
                return await work(services)

        return asyncio.run(all_of_it())

    def change(self, workspace: str, work: Callable[[Services, UUID], Coroutine[Any, Any, T]]) -> T:
        """Run a command's change of a workspace, named by its name, and sign the ledger that it grew."""

        async def change_and_sign(services: Services) -> T:
            workspace_id = await by_name(services, workspace)
            done = await work(services, workspace_id)
            await sign(services, workspace_id)
            return done

        return self.run(change_and_sign)


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two options that every command takes."""
    command = click.option(
        "--database-url", help="PostgreSQL to use instead of the embedded one. [env: VOLENTI_DATABASE_URL]"
    )(command)
    return click.option(
        "--data-dir",
        help="Folder of the embedded PostgreSQL and the key file; default ./.volenti. [env: VOLENTI_DATA_DIR]",
    )(command)


@contextmanager
def deployed(settings: Settings, *, create: bool = False, tell: bool = False) -> Iterator[Deployment]:
    """Reach the database: start the embedded one, or join it while a service runs on it, and migrate it; or take the URL's.

    `create` makes a data directory and its key file where there is none yet; without it that is a wrong use. With an
    external database nothing is ever made: keys come from `volenti keys init`, the schema from `volenti migrate`.
    """
    if settings.profile == "production" and settings.database_url is None:
        raise Invalid("the production profile needs a database: give VOLENTI_DATABASE_URL")
    if settings.database_url is not None:
        url = settings.database_url
        by_role = settings.database_pooler == "transaction"
        yield Deployment(settings, partial(logged_in_as, url) if by_role else lambda role: url, None)
        return
    data = settings.data_path
    known = (data / "postgresql").is_dir()
    if not known and not create:
        raise Invalid(f"there is no deployment in {data}; start one with: volenti serve --data-dir {data}")
    if not known:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with embedded.running(
        data.resolve(), pg_bin=settings.pg_bin, report=_tell if tell or sys.stderr.isatty() else _be_quiet
    ) as server:
        asyncio.run(prepare(server))
        _key_file(settings.key_path, known=known)
        yield Deployment(settings, server.url, server)


async def prepare(server: embedded.Embedded) -> None:
    """Bring the embedded database's roles and schema up to date."""
    await schema.bootstrap(server.url("volenti"))
    await schema.migrate(server.url("volenti_migrate"), report=lambda line: None)


def logged_in_as(url: str, role: str) -> str:
    """The address with the role as its login, and the password that it has: behind a pooler no session takes a role."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    _, colon, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=f"{role}{colon}{password}@{host}"))


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _be_quiet(line: str) -> None:
    """A command beside a service has nothing to say about the server that it joins."""


def _key_file(path: Path, *, known: bool) -> None:
    """Make the key file at the first start of an embedded deployment; never for data that other keys sealed."""
    if path.exists():
        return
    if known:
        raise Invalid(
            f"the key file {path} is missing; without it the data cannot be read. Put it back from where you keep it"
        )
    with suppress(Conflict):  # another process of this data directory was faster
        keyring.create_file(path, os.urandom)


def passing(settings: Settings) -> dict[str, str]:
    """The settings `anchor` and `journal` whose folder goes away with something, and with what: no production bears that."""
    anchor = settings.anchor_place
    folders = {
        "anchor": None if anchor is None or "://" in anchor else Path(anchor),
        "journal": settings.journal_path,
    }
    found = {name: goes_with(folder) for name, folder in folders.items() if folder is not None}
    return {name: what for name, what in found.items() if what is not None}


def settings_of(data_dir: str | None, database_url: str | None, **given: Any) -> Settings:
    """The settings of a command: its options, else the environment."""
    return load(data_dir=data_dir, database_url=database_url, **given)
