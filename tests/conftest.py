"""The house that tests live in: one real PostgreSQL a worker, one workspace a test, the application without a socket."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from deployments import dsn_on, fresh, settings_on
from volenti.api.app import Application, application
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import SCOPES, issue
from volenti.flows.open_services import opened
from volenti.flows.services import Services
from volenti.settings import Settings
from volenti.store import ledger
from volenti.store.embedded import Embedded

_numbers = itertools.count()
_ended: set[UUID] = set()
"""The workspaces of tests that have ended."""


@pytest.fixture(scope="session", autouse=True)
def ended_left_alone() -> Iterator[None]:
    """What starts or runs beside requests leaves the workspaces of ended tests alone, or each test would wait for all before it."""
    heads = ledger.heads

    @wraps(heads)
    async def of_this_test(connection: Any) -> list[ledger.Head]:
        return [head for head in await heads(connection) if head.workspace_id not in _ended]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "heads", of_this_test)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Embedded]:
    """A migrated PostgreSQL for this test process."""
    with fresh() as running:
        yield running


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests; which PostgreSQL it is stays."""
    for name in [name for name in os.environ if name.startswith("VOLENTI_") and name != "VOLENTI_PG_BIN"]:
        monkeypatch.delenv(name)


@pytest.fixture
def bare_folder(bare_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `bare_environment`, and no deployment in the folder that the tests run in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(server: Embedded) -> Settings:
    return settings_on(server)


@pytest.fixture
async def services(server: Embedded, settings: Settings) -> AsyncIterator[Services]:
    """Everything that flows use, over the real database."""
    async with opened(settings, dsn_on(server)) as services:
        yield services


@pytest.fixture
async def workspace(services: Services) -> AsyncIterator[UUID]:
    """A new workspace with the starter policy."""
    workspace = await create(services, f"w{os.getpid()}-{next(_numbers)}")
    yield workspace
    _ended.add(workspace)


@pytest.fixture
async def superuser(server: Embedded) -> AsyncIterator[Any]:
    """A connection that no rule of the database stops, once it has switched them off."""
    connection = await asyncpg.connect(server.url("volenti"), server_settings={"search_path": "volenti"})
    try:
        yield connection
    finally:
        await connection.close()


@dataclass
class Api:
    """The running application and a credential with every scope."""

    http: httpx.AsyncClient
    services: Services
    workspace: UUID
    secret: str

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given = {
            "authorization": f"Bearer {self.secret}",
            "volenti-deadline-ms": "5000",  # a machine that runs many tests at once is slow, and that is not what they test
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if content is not None:
            given.setdefault("content-type", "application/json")
        return await self.http.request(method, path, content=content, headers=given)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.request("GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.request("POST", path, body, **headers)

    async def choose(self, person: str, kind: str, purpose: str = "newsletter", **members: Any) -> httpx.Response:
        """Record one choice of the person's own; `members` go into the event, `body_…` into the request."""
        body = {name.removeprefix("body_"): members.pop(name) for name in list(members) if name.startswith("body_")}
        event = {"kind": kind, "purpose": purpose, **({"notice": f"{purpose}@1"} if kind == "grant" else {}), **members}
        request = {
            "data_subject": {"id": person},
            "events": [event],
            "actor": {"type": "data_subject"},
            "method": "web_form",
            "surface": "https://shop.example/signup",
            **body,
        }
        return await self.post("/v1/consents", request)

    async def check(
        self,
        person: str,
        purpose: str = "newsletter",
        action: str = "send",
        channel: str | None = "email",
        **members: Any,
    ) -> dict[str, Any]:
        """The answer to a check; whatever its status."""
        question = {
            "data_subject": {"id": person},
            "action": action,
            "purpose": purpose,
            **({"channel": channel} if channel else {}),
            **members,
        }
        answer: dict[str, Any] = (await self.post("/v1/check", question)).json()
        return answer


@pytest.fixture
async def app(services: Services) -> AsyncIterator[Application]:
    running = application(services)
    async with running.started():
        yield running


@pytest.fixture
async def api(app: Application, services: Services, workspace: UUID) -> AsyncIterator[Api]:
    issued = await issue(services, workspace, component="tests", scopes=SCOPES)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://volenti.test") as http:  # type: ignore[arg-type]
        yield Api(http, services, workspace, issued.secret)


def pytest_configure(config: pytest.Config) -> None:
    """Plant the bug that VOLENTI_TEST_BREAK names: a run that stays green under it proves nothing."""
    if name := os.environ.get("VOLENTI_TEST_BREAK"):
        from fault.mutants import planted

        bugs = ExitStack()
        bugs.enter_context(planted(name))
        config.add_cleanup(bugs.close)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where every tool is installed (VOLENTI_TESTS_REQUIRE_TOOLS), a test that skips for want of one has failed."""
    report = yield
    wanting = any(why in str(report.longrepr) for why in ("is not installed", "is refused to root"))
    if report.skipped and wanting and os.environ.get("VOLENTI_TESTS_REQUIRE_TOOLS"):
        report.outcome = "failed"
    return report
