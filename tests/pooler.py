"""A real PgBouncer in front of a test's PostgreSQL, in transaction mode: what one session is told, another hears."""

from __future__ import annotations

import configparser
import io
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from volenti.store.embedded import ROLES, Embedded
from volenti.store.embedded_account import account_for

SERVICE_ROLES = tuple(role for role in ROLES if role not in ("volenti", "volenti_migrate"))

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer; `folder` holds its socket."""

    folder: Path

    def url(self, role: str, database: str = "volenti") -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}&port=5432"


def pgbouncer() -> str:
    """The program; a laptop without it skips."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    return program


@contextmanager
def pooled(
    server: Embedded, *, sessions: int = 3, password: str = "", more: dict[str, str] | None = None
) -> Iterator[Pooler]:
    """PgBouncer for as long as the block lasts: at most `sessions` of the server for a role and a database.

    Its settings are those of docs/operations.md, with a test's addresses, and it keeps no idle session for long: each test
    of a restore has databases of its own, and the server has a hundred places. It demands `password` of all, if there is one.
    """
    program = pgbouncer()
    with tempfile.TemporaryDirectory(prefix="volenti-pooler-") as name:
        folder = Path(name)
        account = account_for(server.data_dir, server.binaries.path, report=lambda line: None)  # it refuses root too
        account.give(folder)
        own = {
            "default_pool_size": str(sessions), "server_idle_timeout": "5", "listen_addr": "", "listen_port": "5432", "unix_socket_dir": name,
            "unix_socket_mode": "0700", "auth_file": f"{name}/users.txt", "logfile": f"{name}/log",
            "auth_type": "scram-sha-256" if password else "trust",
        }  # fmt: skip
        account.write(folder / "pgbouncer.ini", _settings(server, own | (more or {})))
        account.write(folder / "users.txt", "".join(f'"{role}" "{password}"\n' for role in ROLES))
        with account.popen([program, "-q", folder / "pgbouncer.ini"], output=subprocess.DEVNULL) as process:
            try:
                _wait_for(folder, process)
                yield Pooler(folder)
            finally:
                process.kill()  # at once, whoever is connected: it keeps nothing


def _settings(server: Embedded, changed: dict[str, str]) -> str:
    documented = re.search(r"```ini\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    assert documented is not None
    settings = configparser.ConfigParser(interpolation=None)
    settings.read_string(documented[1])
    folder = parse_qs(urlsplit(server.url("volenti")).query)["host"][0]
    settings["databases"] = {"*": f"host={folder} port=5432"}
    settings["pgbouncer"].update(changed)
    text = io.StringIO()
    settings.write(text)
    return text.getvalue()


def _wait_for(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(folder / ".s.PGSQL.5432"))
            except OSError:
                time.sleep(0.01)
            else:
                return
    log = folder / "log"
    raise AssertionError(f"PgBouncer did not start:\n{log.read_text() if log.exists() else ''}")
