"""A deployment that a test can spoil: a real PostgreSQL, migrated, with keys of its own, in a folder that goes away.

VOLENTI_PG_BIN chooses another version of PostgreSQL. With VOLENTI_TEST_POOLER=pgbouncer the services of the tests reach
it through PgBouncer only; migrations, superusers and raw connections go past it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from pooler import SERVICE_ROLES, Pooler, pooled
from volenti.cli.deployment import prepare
from volenti.cli.main import run
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.keys.keyring import create_file
from volenti.settings import Settings
from volenti.store import embedded
from volenti.store.embedded import Embedded

_poolers: dict[Path, Pooler] = {}


@contextmanager
def fresh() -> Iterator[Embedded]:
    """A new one for as long as the block lasts."""
    with (
        tempfile.TemporaryDirectory(prefix="volenti-tests-") as folder,
        embedded.running(
            Path(folder) / "data", pg_bin=os.environ.get("VOLENTI_PG_BIN"), report=lambda line: None
        ) as running,
    ):
        asyncio.run(prepare(running))
        create_file(running.data_dir / "keys.json", os.urandom)
        with _pooled_if_asked(running):
            yield running


@contextmanager
def _pooled_if_asked(server: Embedded) -> Iterator[None]:
    match os.environ.get("VOLENTI_TEST_POOLER"):
        case None:
            yield
        case "pgbouncer":
            with pooled(server) as _poolers[server.data_dir]:
                yield
            del _poolers[server.data_dir]
        case unknown:
            raise AssertionError(f"VOLENTI_TEST_POOLER knows no {unknown}")


def settings_on(server: Embedded, **given: Any) -> Settings:
    """Settings for services on a server of the tests."""
    pooler = "transaction" if server.data_dir in _poolers else "none"
    return Settings(**{"data_dir": str(server.data_dir), "log_level": "error", "database_pooler": pooler, **given})


def dsn_on(server: Embedded, database: str = "volenti") -> Callable[[str], str]:
    """The addresses of a database of the server, by role: those of the service's roles may be a pooler's."""

    def dsn(role: str) -> str:
        place = _poolers.get(server.data_dir, server) if role in SERVICE_ROLES else server
        return place.url(role, database)

    return dsn


def services_on(server: Embedded, database: str = "volenti", **given: Any) -> AbstractAsyncContextManager[Services]:
    """Everything that flows use, over a database of the server."""
    return opened(settings_on(server, **given), dsn_on(server, database))


@contextmanager
def with_keys_bound() -> Iterator[Embedded]:
    """A new one whose database is bound to its keys by a first command, as an operator's is."""
    with fresh() as running:
        assert run(["workspace", "list", "--data-dir", str(running.data_dir)]) == 0
        yield running


@contextmanager
def serving(*options: str) -> Iterator[httpx.Client]:
    """`volenti serve` as a process of its own, and a client of it; it must stop with 0."""
    arguments = [sys.executable, "-m", "volenti", "serve", "--port", "0", *options]
    environment = {**os.environ, "VOLENTI_LOG_LEVEL": "error"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as service:
        try:
            assert service.stderr is not None
            base = next(found[1] for line in service.stderr if (found := re.search(r"Volenti on (http://\S+)", line)))
            with httpx.Client(base_url=base, timeout=10) as http:
                yield http
            service.send_signal(signal.SIGTERM)
            assert service.wait(20) == 0
        finally:
            service.kill()
