"""Composition: settings to services, one route table, the dispatcher of the hot routes in front of the framework."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import structlog
from litestar import Litestar, Request, Response
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from volenti.api.endpoint import Context, Listener, Route, respond
from volenti.api.problems import Problematic, body_of, headers_of, problem_of
from volenti.api.routes import routes
from volenti.errors import VolentiError
from volenti.flows.clock import StandingClock
from volenti.flows.keep_anchor import Agrees, guard, read_journal
from volenti.flows.manage_credentials import Authenticator
from volenti.flows.prune import keep_pruned
from volenti.flows.services import Services
from volenti.flows.sign_checkpoint import Checkpointer
from volenti.telemetry import configure

Scope = dict[str, Any]

log = structlog.get_logger()


class Application:
    """The ASGI application: hot routes by one look-up of the path, all else through Litestar.

    `opening` gives the services for as long as the application runs. `ports` names the port of each listener, where they
    have ports of their own: a route answers on its own listener's port only, and elsewhere as if it did not exist.
    """

    def __init__(
        self,
        opening: Callable[[], Any],
        *,
        public_log: bool,
        test_clock: bool,
        ports: Mapping[Listener, int] | None = None,
    ) -> None:
        self._opening = opening
        self._ports = ports or {}
        self._context: Context | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.failure: VolentiError | None = None
        self.table = routes(public_log=public_log, test_clock=test_clock)
        self._hot = {route.path: route for route in self.table if route.hot}
        self._litestar = Litestar(
            route_handlers=[self._handler(route) for route in self.table if not route.hot],
            lifespan=[self._lifespan],
            exception_handlers={HTTPException: _framework_problem, Exception: _unexpected},
            openapi_config=None,
            debug=False,
            logging_config=None,
        )

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        route = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._litestar(scope, receive, send)  # type: ignore[arg-type]
            return
        if self._elsewhere(route, scope):
            status, headers, body = 404, headers_of(_NO_ROUTE), body_of(_NO_ROUTE)
        elif scope["method"] == route.method:
            status, headers, body = await respond(route, self._running(), _headers(scope), {}, {}, receive)
        else:
            problem = Problematic(405, "method", f"this path takes {route.method}")
            status, headers, body = 405, {**headers_of(problem), "allow": route.method}, body_of(problem)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*pairs, (b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _lifespan(self, _: Litestar) -> AbstractAsyncContextManager[None]:
        return self.started()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Open the services and run what runs beside requests, for as long as the block lasts: the server's lifespan."""
        async with self._guarded() as services:
            self._context = Context(services, Authenticator(services), self._unready)
            self._tasks = [
                asyncio.create_task(Checkpointer(services).run()),
                asyncio.create_task(keep_pruned(services)),
            ]
            try:
                yield
            finally:
                self._stopping = True
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[Services]:
        """The services, once each log is guarded. Why that failed is kept and logged: a server only says that it did."""
        async with AsyncExitStack() as stack:
            try:
                services = await stack.enter_async_context(self._opening())
                await _guard(services)
            except VolentiError as error:
                self.failure = error
                log.error("start.failed", error=str(error))
                raise
            yield services

    def _elsewhere(self, route: Route, scope: Scope) -> bool:
        """True if the request came in on the port of another listener."""
        return bool(self._ports) and (scope.get("server") or ("", None))[1] != self._ports[route.listener]

    def _unready(self) -> str | None:
        if self._stopping:
            return "the service is stopping"
        if any(task.done() for task in self._tasks):
            return "what signs checkpoints, or what prunes, has ended; start the service again"
        return None

    def _running(self) -> Context:
        assert self._context is not None, "the lifespan has not started"
        return self._context

    def _handler(self, route: Route) -> HTTPRouteHandler:
        async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
            scope: Any = request.scope
            if self._elsewhere(route, scope):
                return _response(_NO_ROUTE)
            path = {name: str(value) for name, value in request.path_params.items()}
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            status, headers, body = await respond(route, self._running(), _headers(scope), path, query, request.receive)
            return _reply(status, headers, body)

        path = re.sub(r"\{(\w+)\}", r"{\1:str}", route.path)
        return HTTPRouteHandler(
            path,
            http_method=[HttpMethod.GET, HttpMethod.HEAD] if route.method == "GET" else [HttpMethod(route.method)],
            name=f"{route.method} {route.path}",
            status_code=route.status,
            include_in_schema=False,
        )(handle)


async def _guard(services: Services) -> None:
    """Before the first answer: a log that contradicts its anchor or journal is frozen, and its checks deny."""
    lines = await asyncio.to_thread(read_journal, services)
    for origin, standing in (await guard(services, lines)).items():
        if not isinstance(standing, Agrees):
            log.error("ledger.frozen", origin=origin, detail="run: volenti recover")


_NO_ROUTE = Problematic(404, "no_route", "there is no such route")


def _headers(scope: Scope) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _response(problem: Problematic, **headers: str) -> Response[bytes]:
    return _reply(problem.status, {**headers_of(problem), **headers}, body_of(problem))


def _reply(status: int, headers: dict[str, str], body: bytes) -> Response[bytes]:
    media = headers.pop("content-type")  # the framework itself adds the charset to a text
    return Response(body, status_code=status, headers=headers, media_type=media.removesuffix("; charset=utf-8"))


def _framework_problem(_: Any, error: HTTPException) -> Response[bytes]:
    """What the framework refuses before a route is found; its own texts may quote the path, so none is passed on."""
    if error.status_code == 404:
        return _response(_NO_ROUTE)
    known = {405: ("method", "the path does not take this method")}
    kind, detail = known.get(error.status_code, ("request", "the request cannot be served"))
    return _response(
        Problematic(error.status_code, kind, detail),
        **{name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"},
    )


def _unexpected(_: Any, error: Exception) -> Response[bytes]:
    return _response(problem_of(error))


def application(services: Services) -> Application:
    """An application over services that somebody else opens and closes: for tests and for one process."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Services]:
        yield services

    configure(services.settings.log_level)
    return Application(
        opening, public_log=services.settings.public_log, test_clock=isinstance(services.clock, StandingClock)
    )
