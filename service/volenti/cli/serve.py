"""`volenti serve`: start what is needed, answer, and stop without losing anything."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import FrameType
from typing import Any

import msgspec
import rich_click as click
import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from volenti.api.app import Application
from volenti.api.endpoint import Listener
from volenti.cli.demo import seed
from volenti.cli.deployment import Deployment, deployed, logged_in_as, passing, settings_of, where
from volenti.cli.instants import instant_of
from volenti.errors import Invalid, Unavailable, VolentiError
from volenti.flows.clock import StandingClock, instant
from volenti.flows.open_services import opened, stand_clock
from volenti.flows.services import Services
from volenti.settings import Settings, load, shown_host
from volenti.store.embedded import Embedded
from volenti.telemetry import configure

GRACE_SECONDS = 10
PROBE_SECONDS = 1.0
BACKLOG = 2048
PATIENCE_SECONDS = 10.0
"""How long a process that comes up waits for a database that is away: it may be in the middle of being revived."""

log = structlog.get_logger()


@click.command(short_help="Start the service.")
@click.option("--host", help="Address to listen on; default 127.0.0.1. [env: VOLENTI_HOST]")
@click.option("--port", type=int, help="Port to listen on; default 8080, 0 takes a free one. [env: VOLENTI_PORT]")
@click.option("--workers", type=int, help="Processes that answer; default 1. [env: VOLENTI_WORKERS]")
@click.option("--demo", is_flag=True, help="Seed a workspace `demo` and print a credential and a curl line.")
@click.option(
    "--test-clock",
    metavar="T",
    help="A new data directory whose time stands at T (RFC 3339) until POST /v1/test/clock moves it.",
)
@where
def serve(
    host: str | None,
    port: int | None,
    workers: int | None,
    demo: bool,
    test_clock: str | None,
    data_dir: str | None,
    database_url: str | None,
) -> int:
    """Start the service. Without a database URL it starts the embedded PostgreSQL in the data directory, migrates it and serves."""
    settings = settings_of(data_dir, database_url, host=host, port=port, workers=workers)
    stands_at = _standing(settings, test_clock)
    configure(settings.log_level)
    stopping = _Stopping()
    with deployed(settings, create=True, tell=True) as deployment:
        _refuse_passing_places(settings)
        if stands_at is not None:
            asyncio.run(stand_clock(deployment.settings, deployment.dsn, stands_at))
        standing = _clock_stands(deployment)
        bound = _bind_all(settings)
        settings = _listening(settings, bound)
        base_url = f"http://{shown_host(settings.host)}:{settings.port}"
        if demo:
            click.echo(deployment.run(lambda services: seed(services, base_url)))
        else:
            click.echo(f"Volenti on {base_url}", err=True)
        sys.stdout.flush()
        stop = threading.Event()
        watch = threading.Thread(target=_keep_alive, args=(deployment.embedded, stop), daemon=True)
        watch.start()
        try:
            _run(deployment, settings, bound, stopping, standing=standing)
        finally:
            stop.set()
            watch.join(timeout=GRACE_SECONDS)
    return 0


def _refuse_passing_places(settings: Settings) -> None:
    for name, owner in passing(settings).items():
        if settings.profile == "production":
            raise Invalid(f"the {name} goes away with {owner}, which production does not bear: give it another place")


class _Stopping:
    """Takes SIGTERM and SIGINT from the first moment on, so that none is lost and none leaves PostgreSQL running.

    A start goes on until it can end cleanly, and then ends; a second signal during a start ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.server: uvicorn.Server | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.server is not None:  # also when uvicorn raises the signal again after its drain
            self.server.should_exit = True
        elif self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True


def _standing(settings: Settings, test_clock: str | None) -> datetime | None:
    """The instant of --test-clock. Raises Invalid where it must not be used."""
    if test_clock is None:
        return None
    if settings.profile == "production" or settings.database_url is not None:
        raise Invalid("--test-clock is for a new data directory of the embedded database, never for production")
    if settings.workers > 1:
        raise Invalid("--test-clock needs one worker: the clock stands in its memory")
    if (settings.data_path / "postgresql").exists():
        raise Invalid(f"--test-clock starts a new data directory; {settings.data_path} has data already")
    return instant(instant_of(test_clock, "--test-clock"))


Sockets = dict[Listener, socket.socket]
"""The bound socket of each listener; listeners without a port of their own share one."""


def _bind_all(settings: Settings) -> Sockets:
    main = _bind(settings, settings.port)
    return {
        "internal": main,
        "admin": main if settings.admin_port is None else _bind(settings, settings.admin_port),
        "public": main if settings.public_port is None else _bind(settings, settings.public_port),
    }


def _listening(settings: Settings, bound: Sockets) -> Settings:
    """The settings with the ports that were taken where a free one was asked for: links are built from them."""
    public = None if settings.public_port is None else _port(bound["public"])
    return msgspec.structs.replace(settings, port=_port(bound["internal"]), public_port=public)


def _port(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def _bind(settings: Settings, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, port))
    except OSError as error:
        raise Invalid(f"cannot listen on {settings.host}:{port}: {error.strerror}; choose another port") from error
    bound.listen(BACKLOG)  # who calls before the application is up waits a moment instead of being refused
    bound.set_inheritable(True)
    return bound


def _run(deployment: Deployment, settings: Settings, bound: Sockets, stopping: _Stopping, *, standing: bool) -> None:
    """Serve until SIGTERM or SIGINT: readiness off, requests in flight finish, the queue drains. Returns, so the exit code is 0.

    Raises what kept the application from starting; Unavailable if a worker process cannot come up.
    """
    options: dict[str, Any] = {
        "loop": "uvloop", "http": "volenti.api.guard:Guard", "ws": "none", "lifespan": "on", "interface": "asgi3",
        "proxy_headers": False, "server_header": False, "date_header": False, "access_log": False, "log_config": None,
        "timeout_graceful_shutdown": GRACE_SECONDS, "backlog": BACKLOG,
    }  # fmt: skip
    sockets = list({_port(one): one for one in bound.values()}.values())
    ports = {listener: _port(one) for listener, one in bound.items()} if len(sockets) > 1 else {}
    log.info("serving", host=settings.host, port=_port(bound["internal"]), count=settings.workers)
    if settings.workers == 1:
        application = _application(settings, deployment.dsn, ports, standing=standing)
        stopping.server = uvicorn.Server(uvicorn.Config(application, **options))
        if not stopping.asked:
            try:
                stopping.server.run(sockets=sockets)
            except SystemExit:  # of a start that failed
                raise application.failure or Unavailable("the service could not start") from None
    else:
        os.environ |= {
            "VOLENTI_WORKER_DSN": deployment.dsn("volenti_app"),
            "VOLENTI_WORKER_BY_ROLE": "1" if deployment.embedded or settings.database_pooler == "transaction" else "",
            "VOLENTI_WORKER_PORTS": msgspec.json.encode(ports).decode(),
        }
        os.environ |= {
            f"VOLENTI_{name.upper()}": _text(value) for name, value in _members(settings) if value is not None
        }
        config = uvicorn.Config("volenti.cli.serve:worker", factory=True, workers=settings.workers, **options)
        supervisor = Multiprocess(config, sockets=sockets)  # takes the signals from here on
        if not stopping.asked:
            supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise Unavailable("a worker process could not start, so the service stopped")
    log.info("stopped")


def worker() -> Application:
    """The application of one worker process: the parent has started and migrated the database."""
    settings = load()
    configure(settings.log_level)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    given = os.environ["VOLENTI_WORKER_DSN"]
    by_role = bool(os.environ["VOLENTI_WORKER_BY_ROLE"])
    ports = msgspec.json.decode(os.environ["VOLENTI_WORKER_PORTS"], type=dict[Listener, int])

    def dsn(role: str) -> str:
        return logged_in_as(given, role) if by_role else given

    return _application(settings, dsn, ports, standing=False)


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    """Stop when the parent is gone: nobody else would, and the port and the database would stay in use."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _application(
    settings: Settings, dsn: Callable[[str], str], ports: Mapping[Listener, int], *, standing: bool
) -> Application:
    return Application(
        lambda: _opened_patiently(settings, dsn), public_log=settings.public_log, test_clock=standing, ports=ports
    )


@asynccontextmanager
async def _opened_patiently(settings: Settings, dsn: Callable[[str], str]) -> AsyncIterator[Services]:
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    async with AsyncExitStack() as stack:
        while True:
            try:
                services = await stack.enter_async_context(opened(settings, dsn))
                break
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
        yield services


def _members(settings: Settings) -> list[tuple[str, Any]]:
    return [(name, getattr(settings, name)) for name in Settings.__struct_fields__]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _clock_stands(deployment: Deployment) -> bool:
    async def look(services: Services) -> bool:
        return isinstance(services.clock, StandingClock)

    return deployment.run(look)


def _keep_alive(server: Embedded | None, stop: threading.Event) -> None:
    """Start the embedded PostgreSQL again when it does not answer; a query tells, never a pid."""
    while server is not None and not stop.wait(PROBE_SECONDS):
        try:
            if not server.alive() and not stop.is_set():
                server.revive()
                log.warning("database.revived")
        except VolentiError as error:
            log.error("database.down", error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the watch must go on
            log.error("database.down", error=type(error).__name__)
