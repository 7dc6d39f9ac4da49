"""`volenti serve`: start what is needed, answer, and stop without losing anything."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import rich_click as click
import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess

from volenti.api.app import Application
from volenti.api.endpoint import Listener
from volenti.cli.demo import seed
from volenti.cli.deployment import Deployment, deployed, settings_of, where
from volenti.errors import Invalid, VolentiError
from volenti.flows.clock import StandingClock
from volenti.flows.open_services import opened, stand_clock
from volenti.flows.services import Services
from volenti.settings import Settings, load
from volenti.store.embedded import Embedded
from volenti.telemetry import configure

GRACE_SECONDS = 10
PROBE_SECONDS = 1.0
BACKLOG = 2048

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
    with deployed(settings, create=True, tell=True) as deployment:
        if stands_at is not None:
            asyncio.run(stand_clock(deployment.settings, deployment.dsn, stands_at))
        standing = _clock_stands(deployment)
        bound = _bind_all(settings)
        base_url = f"http://{_shown(settings.host)}:{_port(bound['internal'])}"
        if demo:
            click.echo(deployment.run(lambda services: seed(services, base_url)))
        else:
            click.echo(f"Volenti on {base_url}", err=True)
        sys.stdout.flush()
        stop = threading.Event()
        watch = threading.Thread(target=_keep_alive, args=(deployment.embedded, stop), daemon=True)
        watch.start()
        try:
            _run(deployment, settings, bound, standing=standing)
        finally:
            stop.set()
            watch.join(timeout=GRACE_SECONDS)
    return 0


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
    try:
        at = datetime.fromisoformat(test_clock)
    except ValueError:
        raise Invalid("--test-clock takes an RFC 3339 instant such as 2026-07-01T12:00:00Z") from None
    if at.tzinfo is None:
        raise Invalid("--test-clock takes an instant with a time zone, such as 2026-07-01T12:00:00Z")
    return at.astimezone(UTC)


Sockets = dict[Listener, socket.socket]
"""The bound socket of each listener; listeners without a port of their own share one."""


def _bind_all(settings: Settings) -> Sockets:
    main = _bind(settings, settings.port)
    return {
        "internal": main,
        "admin": main if settings.admin_port is None else _bind(settings, settings.admin_port),
        "public": main if settings.public_port is None else _bind(settings, settings.public_port),
    }


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


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - for a person to click on


def _run(deployment: Deployment, settings: Settings, bound: Sockets, *, standing: bool) -> None:
    """Serve until SIGTERM or SIGINT: readiness off, requests in flight finish, the queue drains. Returns, so the exit code is 0."""
    options: dict[str, Any] = {
        "loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "on", "interface": "asgi3",
        "proxy_headers": False, "server_header": False, "date_header": False, "access_log": False, "log_config": None,
        "timeout_graceful_shutdown": GRACE_SECONDS, "backlog": BACKLOG,
    }  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its drain; it ends here
    sockets = list({_port(one): one for one in bound.values()}.values())
    ports = {listener: _port(one) for listener, one in bound.items()} if len(sockets) > 1 else {}
    log.info("serving", host=settings.host, port=_port(bound["internal"]), count=settings.workers)
    if settings.workers == 1:
        application = _application(settings, deployment.dsn, ports, standing=standing)
        uvicorn.Server(uvicorn.Config(application, **options)).run(sockets=sockets)
    else:
        os.environ |= {
            "VOLENTI_WORKER_DSN": deployment.dsn("volenti_app"),
            "VOLENTI_WORKER_EMBEDDED": "1" if deployment.embedded else "",
            "VOLENTI_WORKER_PORTS": msgspec.json.encode(ports).decode(),
        }
        os.environ |= {
            f"VOLENTI_{name.upper()}": _text(value) for name, value in _members(settings) if value is not None
        }
        config = uvicorn.Config("volenti.cli.serve:worker", factory=True, workers=settings.workers, **options)
        Multiprocess(config, sockets=sockets).run()
    log.info("stopped")


def worker() -> Application:
    """The application of one worker process: the parent has started and migrated the database."""
    settings = load()
    configure(settings.log_level)
    given = os.environ["VOLENTI_WORKER_DSN"]
    embedded = bool(os.environ["VOLENTI_WORKER_EMBEDDED"])
    ports = msgspec.json.decode(os.environ["VOLENTI_WORKER_PORTS"], type=dict[Listener, int])

    def dsn(role: str) -> str:
        return given.replace("//volenti_app@", f"//{role}@") if embedded else given

    return _application(settings, dsn, ports, standing=False)


def _application(
    settings: Settings, dsn: Callable[[str], str], ports: Mapping[Listener, int], *, standing: bool
) -> Application:
    return Application(lambda: opened(settings, dsn), public_log=settings.public_log, test_clock=standing, ports=ports)


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
        if not server.alive() and not stop.is_set():
            log.warning("database.revived")
            try:
                server.revive()
            except VolentiError as error:
                log.error("database.down", error=str(error))
