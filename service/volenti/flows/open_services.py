"""Open a deployment: keys, database, clock; refuse, with a sentence, what does not belong together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from volenti.errors import Invalid, NotFound
from volenti.flows.clock import StandingClock, milliseconds, wall_clock
from volenti.flows.profiles import shipped
from volenti.flows.services import Services
from volenti.keys.keyring import Keyring, read_file
from volenti.keys.sealer import LocalSealer
from volenti.keys.signer import LocalSigner
from volenti.settings import Settings
from volenti.store import schema, workspaces
from volenti.store.anchor import open_anchor
from volenti.store.appender import Appender
from volenti.store.database import Database, translated
from volenti.store.journal import Journal


@asynccontextmanager
async def opened(settings: Settings, dsn: Callable[[str], str]) -> AsyncIterator[Services]:
    """The services of a deployment whose schema is up to date.

    Binds a database that no keys were bound to. Raises Invalid if the schema is behind, if the keys are another
    deployment's, or if the key file cannot be used; Unavailable if the database cannot be reached or is unsafe.
    """
    keyring = _keys(settings)
    missing = await schema.pending(dsn("volenti_app"))
    if missing:
        raise Invalid(f"the database lacks {len(missing)} migrations, from {missing[0].name} on; run: volenti migrate")
    anchor_place, journal_path = settings.anchor_place, settings.journal_path
    if settings.profile == "production" and (anchor_place is None or journal_path is None):
        raise Invalid(
            "the production profile needs an anchor and a journal outside the database: give VOLENTI_ANCHOR and VOLENTI_JOURNAL"
        )
    anchor = None if anchor_place is None else open_anchor(anchor_place, endpoint=settings.s3_endpoint)
    database = Database(
        dsn, read_connections=settings.read_connections, pooler=settings.database_pooler == "transaction"
    )
    name = f"{wall_clock()}-{os.getpid()}-{os.urandom(4).hex()}"
    journal = None if journal_path is None else Journal(journal_path, name, required=settings.profile == "production")
    appender = Appender(database, journal=journal)
    try:
        await database.check()
        clock = await _bound_clock(database, keyring)
        await asyncio.to_thread(shipped)  # read once: no check waits for it
        services = Services(
            database,
            appender,
            keyring,
            LocalSigner(keyring),
            LocalSealer(keyring, os.urandom),
            clock,
            os.urandom,
            settings,
            anchor,
            journal,
        )
        try:
            yield services
        finally:
            await services.decisions.close()
    finally:
        await appender.close()
        if journal is not None:
            journal.close()
        if anchor is not None:
            anchor.close()
        await database.close()


def _keys(settings: Settings) -> Keyring:
    try:
        return read_file(settings.key_path)
    except NotFound:
        raise Invalid(
            f"there is no key file at {settings.key_path}; name it with VOLENTI_KEY_FILE, or make one for a new database with: volenti keys init"
        ) from None


async def stand_clock(settings: Settings, dsn: Callable[[str], str], at: datetime) -> None:
    """Bind a new database to its keys with a clock that stands at `at`. Raises Invalid if it was bound before."""
    fingerprint = read_file(settings.key_path).fingerprint()
    database = Database(dsn)
    try:
        async with database.connection("volenti_admin") as connection:
            with translated("standing the clock"):
                await workspaces.bind_keys(connection, fingerprint, at)
                bound = await workspaces.deployment(connection)
    finally:
        await database.close()
    if bound is None or bound.test_clock is None:
        raise Invalid("the database runs on the wall clock already; --test-clock starts a new data directory")


async def _bound_clock(database: Database, keyring: Keyring) -> Callable[[], int]:
    async with database.connection("volenti_admin") as connection:
        with translated("reading the deployment"):
            await workspaces.bind_keys(connection, keyring.fingerprint(), None)
            bound = await workspaces.deployment(connection)
    if bound is None or bound.key_fingerprint != keyring.fingerprint():
        raise Invalid("the database was made with another key file; nothing in it can be read with this one")
    return wall_clock if bound.test_clock is None else StandingClock(milliseconds(bound.test_clock))
