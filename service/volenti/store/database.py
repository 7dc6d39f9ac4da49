"""The connections to PostgreSQL: one pool a role, one meaning for each of its errors."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg

from volenti.errors import Invalid, LedgerDamaged, Unavailable

Connection: TypeAlias = Any  # asyncpg's Connection or its pool proxy; other floors name it by this alias only
Role = Literal["volenti_app", "volenti_admin", "volenti_signer", "volenti_audit", "volenti_eraser"]

ACQUIRE_SECONDS = 1.0
"""How long a request waits for a connection before it is answered 503: asyncpg itself would wait for ever."""
COMMAND_SECONDS = 7.0
"""The client's own deadline: a backend stopped by SIGSTOP never reaches its statement timeout of 5 s."""

_DEAD_PEER = {
    "TCP_KEEPIDLE": 2,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 5_000,  # ms; without it the kernel resends into a silent network for a quarter of an hour
}
"""How the kernel finds a peer that is silently gone, within 5 s: asyncpg leaves its sockets without any of it."""

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a backend that dies during type introspection
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # it leads to a standby, or to what was the primary before a failover
    asyncpg.StatementCompletionUnknownError,
    asyncpg.PostgresSystemError,  # the server's disk fails
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    TimeoutError,
)
"""A connection is gone or unusable; what was sent over it has an unknown outcome."""

BUSY = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
)
"""The statement was refused or cut short and did nothing; it may be repeated."""

POOLER_UNTOLD = (
    "a pooler stands between, which keeps no session: the service needs VOLENTI_DATABASE_POOLER=transaction, and"
    " migrations need an address that goes past it"
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the driver's errors into ours; `doing` completes the sentence "… could not be done".

    Raises Unavailable where a repetition may succeed, Invalid where PostgreSQL cannot hold the value or is not what
    answers, LedgerDamaged where a row contradicts a constraint. Never carries DETAIL or parameters: they may hold personal data.
    """
    try:
        yield
    except LOST as error:
        what = "the database cannot be reached"
        if isinstance(error, asyncpg.ProtocolViolationError):  # PgBouncer's word for whatever it refuses
            if "startup parameter" in str(error):
                raise Invalid(f"{doing}: {POOLER_UNTOLD}") from error
            what += ", or a pooler in front of it refuses"
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            what = "the database takes no writes"
        raise Unavailable(f"{doing}: {what} ({type(error).__name__})") from error
    except BUSY as error:
        raise Unavailable(f"{doing}: the database is busy ({type(error).__name__})") from error
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
        raise Invalid(
            f"{doing}: the database login lacks a right (log in as volenti_service), or the schema is not there (run: volenti migrate)"
        ) from error
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise Unavailable(f"{doing}: the ledger does not accept entries at the moment") from error
    except (asyncpg.DataError, asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError) as error:
        raise Invalid(f"{doing}: a value cannot be stored ({type(error).__name__})") from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise LedgerDamaged(f"{doing}: the database refused a row ({type(error).__name__})") from error


def _outcome_unknown(error: BaseException) -> bool:
    """True if what was last sent over the connection may be done or not, or may still be under way."""
    return isinstance(error, (asyncio.CancelledError, *LOST)) or isinstance(error.__cause__, LOST)


async def _notice_dead_peer(opened: Connection) -> None:
    """Have the kernel end a TCP connection whose peer no longer answers, also one that lies idle in a pool."""
    bound = opened._transport.get_extra_info("socket")  # asyncpg has no public way to it
    if bound is None or bound.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with socket.socket(fileno=os.dup(bound.fileno())) as same:  # uvloop's own object has no setsockopt
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _DEAD_PEER.items():
            if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
                same.setsockopt(socket.IPPROTO_TCP, option, value)


async def _keep_session(_: Connection) -> None:
    """Skip the reset at release, a round trip a request: the service sets nothing but transaction-local settings."""


class Database:
    """The pools of a deployment, opened on first use.

    `dsn` gives the address for a role. Where the address logs in as somebody else, the connection takes the role at
    start-up, so that each part of the service has the rights of its role and no more.

    Nothing here or above relies on the session that a statement runs in: with `pooler`, each transaction may run in
    another one. Then `dsn` has to log in as the role itself, whose own settings give search path and timeouts, and no
    statement is prepared for later.
    """

    def __init__(self, dsn: Callable[[str], str], *, read_connections: int = 8, pooler: bool = False) -> None:
        self._dsn = dsn
        self._sizes: dict[str, int] = {"volenti_app": read_connections}
        self._pooler = pooler
        self._statement_cache = 0 if pooler else 100
        self._pools: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    async def pool(self, role: Role) -> Any:
        """The pool of a role. Raises Unavailable if the database cannot be reached, or after `close`."""
        if self._closed:
            raise Unavailable("the service is stopping")
        if role not in self._pools:
            async with self._opening:
                if role not in self._pools:
                    with translated(f"connecting as {role}"):
                        self._pools[role] = await asyncpg.create_pool(
                            self._dsn(role),
                            min_size=0,
                            max_size=self._sizes.get(role, 2),
                            command_timeout=COMMAND_SECONDS if role != "volenti_audit" else None,
                            statement_cache_size=self._statement_cache,
                            init=_notice_dead_peer,
                            reset=_keep_session,
                            server_settings=self._server_settings(role),
                        )
        return self._pools[role]

    async def connect(self, role: Role) -> Connection:
        """A connection of one's own, outside the pools, for a holder that keeps it: the appender."""
        with translated(f"connecting as {role}"):
            connection = await asyncpg.connect(
                self._dsn(role),
                timeout=COMMAND_SECONDS,
                command_timeout=COMMAND_SECONDS,
                statement_cache_size=self._statement_cache,
                server_settings=self._server_settings(role),
            )
            await _notice_dead_peer(connection)
            return connection

    @asynccontextmanager
    async def connection(self, role: Role) -> AsyncIterator[Connection]:
        """Lend a connection outside a transaction. Raises Unavailable after ACQUIRE_SECONDS without one, or if it is lost."""
        pool = await self.pool(role)
        with translated("using the database"):
            connection = await pool.acquire(timeout=ACQUIRE_SECONDS)
            try:
                yield connection
            except BaseException as error:
                if _outcome_unknown(error):
                    connection.terminate()  # never hand one back whose last statement has an unknown outcome
                raise
            finally:
                await pool.release(connection)

    @asynccontextmanager
    async def workspace(self, role: Role, workspace_id: UUID, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """A transaction that sees one workspace. With `snapshot` it is read-only, sees one instant throughout and may take long.

        Commits at the end, rolls back on any exception.
        """
        async with self.connection(role) as connection:
            with translated("a transaction"):
                isolation = {"isolation": "repeatable_read", "readonly": True} if snapshot else {}
                transaction = connection.transaction(**isolation)
                await transaction.start()
                try:
                    await connection.execute("SELECT set_config('app.workspace', $1, true)", str(workspace_id))
                    if snapshot:
                        await connection.execute("SET LOCAL statement_timeout = 0")
                    yield connection
                except BaseException as error:
                    if not _outcome_unknown(error):  # else a ROLLBACK would wait for the answer that did not come
                        await transaction.rollback()
                    raise
                await transaction.commit()

    async def check(self) -> None:
        """Return if the application's role can use the database safely, else raise Unavailable with the reason.

        Raises Invalid if a pooler stands between that the settings do not name.
        """
        async with self.connection("volenti_app") as connection:
            with translated("checking the database"):
                row = await connection.fetchrow(
                    "SELECT current_setting('synchronous_commit') AS durable, (SELECT count(*) FROM ledger_head) AS leaked,"
                    " rolsuper OR rolbypassrls AS mighty, current_user AS role FROM pg_roles WHERE rolname = current_user"
                )
            pooled = not self._pooler and await is_pooled(connection)
        if pooled:
            raise Invalid(POOLER_UNTOLD)
        if row["mighty"] or row["leaked"]:
            raise Unavailable("the service's database role bypasses row-level security; connect as volenti_app")
        if row["role"] != "volenti_app":
            raise Unavailable("the service's database role is not volenti_app; the pooler must log in as who asks it")
        if row["durable"] == "off":
            raise Unavailable("synchronous_commit is off: an acknowledged entry could be lost; switch it on")

    async def about(self) -> tuple[str, datetime]:
        """PostgreSQL's version and its clock (the wall clock, also where a test clock stands)."""
        async with self.connection("volenti_app") as connection:
            with translated("reading the database"):
                row = await connection.fetchrow("SELECT current_setting('server_version'), clock_timestamp()")
        return row[0], row[1]

    def _server_settings(self, role: Role) -> dict[str, str]:
        carried = {"application_name": role, "timezone": "UTC"}  # also by PgBouncer, from session to session
        return carried if self._pooler else {"role": role, "search_path": "volenti", **carried}

    async def close(self) -> None:
        """Close every pool, by force if a connection does not come back within two seconds. None is opened after that."""
        self._closed = True
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), 2)
            except TimeoutError:
                pool.terminate()
        self._pools.clear()


async def is_pooled(connection: Connection) -> bool:
    """True if the process that answers is not the one that was announced: a pooler stands between, and lends them."""
    return bool(await connection.fetchval("SELECT pg_backend_pid() <> $1", connection.get_server_pid()))


_cursors = itertools.count()


async def streamed(connection: Connection, statement: str, *arguments: object) -> AsyncIterator[Any]:
    """Every row of a query through a server-side cursor: constant memory. Needs a transaction, and ends with it.

    Not the driver's own cursor: that names a prepared statement, which behind a pooler outlives the transaction in a
    session that others get.
    """
    name = f"cursor_{next(_cursors)}"
    await connection.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {statement}", *arguments)
    while found := await connection.fetch(f"FETCH 2000 FROM {name}"):
        for row in found:
            yield row
    await connection.execute(f"CLOSE {name}")


class Turn:
    """What only one process may do for a name at a time, in the two-integer form of a transaction's advisory lock."""

    SIGN = 0x566F6C02
    PUBLISH = 0x566F6C03
    CREATE = 0x566F6C04


async def take_turn(connection: Connection, turn: int, name: str) -> None:
    """Wait for the turn; it ends with the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", turn, name)


async def try_turn(connection: Connection, turn: int, name: str) -> bool:
    """Take the turn if nobody has it; it ends with the transaction."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1, hashtext($2))", turn, name))
