"""Who may do what: every route of the table is closed until a credential with just its scope opens it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from conftest import Api
from deployments import services_on
from volenti.api import endpoint
from volenti.api.app import Application
from volenti.api.endpoint import Route
from volenti.api.routes import routes
from volenti.core.policy.starter import starter_policy
from volenti.flows import manage_credentials
from volenti.flows.clock import boot_seconds, wall_clock
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import SCOPES, Authenticator, issue, revoke
from volenti.flows.record_consents import revision_token
from volenti.flows.services import Services
from volenti.keys.credential import mint, parse
from volenti.store import credentials
from volenti.store.embedded import Embedded
from volenti.telemetry import configure

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLE = routes(public_log=False, test_clock=True)
CLOSED = [route for route in TABLE if route.scope is not None]
OPEN = [route for route in TABLE if route.scope is None]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


any_closed_route = pytest.mark.parametrize("route", CLOSED, ids=name_of)
any_route = pytest.mark.parametrize("route", TABLE, ids=name_of)
_numbers = itertools.count()


@dataclass
class House:
    """Two workspaces of one deployment, each with a person, two policies and a log."""

    services: Services
    http: httpx.AsyncClient
    ours: Api
    theirs: Api
    our_name: str
    their_name: str
    decision: str
    """The id of a decision of ours that is logged."""
    confirmation: str
    """The token of a page that confirms a request of ours."""
    asking: str
    """The token of a page that asks a person of ours for a consent."""

    async def credential(self, *scopes: str, **limits: Any) -> Api:
        """Our workspace with a credential of its own."""
        issued = await issue(self.services, self.ours.workspace, component="tests", scopes=scopes, **limits)
        return Api(self.http, self.services, self.ours.workspace, issued.secret)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(server: Embedded) -> AsyncIterator[House]:
    async with services_on(server) as services:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Services]:
            yield services

        configure(services.settings.log_level)
        app: Any = Application(opening, public_log=False, test_clock=True)
        transport = httpx.ASGITransport(app=app)
        async with app.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
            names = [f"auth-{side}-{uuid4().hex[:12]}" for side in ("ours", "theirs")]
            ours, theirs = [await _workspace(services, http, name) for name in names]
            decision = (await ours.check(f"cus_{names[0]}"))["decision_id"]
            await services.decisions.flush()
            requested = (await ours.choose("cus_asked", "request", notice="newsletter@1")).json()
            token = requested["confirmation"]["url"].rpartition("/")[2]
            denied = await ours.check(f"cus_{names[0]}", "personalisation", "profile", None)
            asking = denied["access_request"]["binding_token"]
            yield House(services, http, ours, theirs, names[0], names[1], decision, token, asking)


async def _workspace(services: Services, http: httpx.AsyncClient, name: str) -> Api:
    workspace = await create(services, name)
    issued = await issue(services, workspace, component="tests", scopes=SCOPES)
    api = Api(http, services, workspace, issued.secret)
    subject = {"id": f"cus_{name}", "identifiers": [{"type": "email", "value": f"{name}@example.org"}]}
    assert (await api.choose(f"cus_{name}", "grant", body_data_subject=subject)).status_code == 201
    assert (await api.post("/v1/policies", {"document": starter_policy(f"{name} GmbH")})).status_code == 201
    return api


def request_of(route: Route, house: House) -> tuple[str, Any]:
    """A request that the route answers well: path and body."""
    person, mail = f"cus_{house.our_name}", f"{house.our_name}@example.org"
    document = starter_policy(f"Number {next(_numbers)} GmbH")
    bodies: dict[str, Any] = {
        "/v1/check": {"data_subject": {"id": person}, "action": "send", "purpose": "newsletter", "channel": "email"},
        "/v1/check/batch": {"items": [{"data_subject": {"id": person}, "action": "use", "purpose": "analytics"}]},
        "/v1/data-subjects/{id}/restriction": {"restricted": False},
        "/v1/consents": {"data_subject": {"id": person}, "events": [{"kind": "withdraw", "purpose": "analytics"}], "actor": {"type": "data_subject"}},
        "/v1/consents/batch": {"items": [{"data_subject": {"id": person}, "events": [{"kind": "withdraw", "purpose": "analytics"}], "actor": {"type": "data_subject"}}]},
        "/v1/offers": {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"},
        "/v1/data-subjects/lookup": {"identifier": {"type": "email", "value": mail}},
        "/v1/data-subjects/{id}": {"locale": "de"},
        "/v1/policies": {"document": document},
        "/v1/policies/{version}/activate": {},
        "/v1/test/clock": {"now": "2020-01-01T00:00:00Z"},
        "/p/{token}": {"answer": "no"},
    }  # fmt: skip
    path = (
        route.path.replace("/decisions/{id}", f"/decisions/{house.decision}")
        .replace("{id}", person)
        .replace("{version}", "1")
        .replace("/c/{token}", f"/c/{house.confirmation}")
        .replace("/p/{token}", f"/p/{house.asking}")
        .replace("{key}", "0")
        .replace("{log}", house.our_name)
        .replace("tile/{rest:path}", "tile/0/000.p/1")
        .replace("{rest:path}", "000.p/1")
    )
    assert "{" not in path, f"say in this test how {name_of(route)} is asked"
    if route.path == "/v1/ledger/consistency":
        path += "?from=1&to=2"
    if route.path == "/v1/data-subjects/{id}/diff":
        path += "?from=2026-01-01T00:00:00Z"
    return path, bodies[route.path] if route.request is not None else None


async def ask(house: House, route: Route, secret: str | None, **headers: str) -> httpx.Response:
    path, body = request_of(route, house)
    given = headers if secret is None else {"authorization": f"Bearer {secret}", **headers}
    if body is None:
        return await house.http.request(route.method, path, headers=given)
    if route.form:
        return await house.http.request(route.method, path, data=body, headers=given)
    return await house.http.request(route.method, path, json=body, headers=given)


def is_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


# ---- without a credential


async def test_only_these_routes_answer_without_a_credential() -> None:
    """A route that is added to this list lets everybody in: think twice."""
    assert {name_of(route) for route in OPEN} == {
        "GET /c/{token}",
        "POST /c/{token}",
        "GET /p/{token}",
        "POST /p/{token}",
        "GET /.well-known/jwks.json",
        "GET /healthz",
        "GET /readyz",
        "GET /schema",
        "GET /schema/openapi.json",
    }


@pytest.mark.parametrize("route", OPEN, ids=name_of)
async def test_a_route_without_a_scope_answers_everybody(house: House, route: Route) -> None:
    assert (await ask(house, route, None)).status_code == route.status


def bad_secrets(good: str) -> dict[str, str]:
    return {
        "a wrong checksum": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "a wrong letter within": good[:45] + ("A" if good[45] != "A" else "B") + good[46:],
        "somebody nobody knows": mint(os.urandom(16), os.urandom(32)),
        "the same id with another secret": mint(UUID(hex=good[7:39]).bytes, os.urandom(32)),
        "another prefix": good.replace("vol_sk_", "vol_pk_"),
        "cut off": good[:-7],
        "doubled": good + good,
        "in capitals": good.upper(),
        "nothing": "",
        "a word": "let-me-in",
        "a JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.",
        "a NUL": good + "\0",
        "other letters": "vol_sk_é",
        "50,000 letters": "a" * 50_000,
    }


@any_closed_route
async def test_a_closed_route_answers_401_without_a_live_credential(house: House, route: Route) -> None:
    """Each refusal is the same, whatever is wrong with the credential."""
    bad = bad_secrets(house.ours.secret)
    past = await house.credential(*SCOPES, expires_at=wall_clock() - 1)
    gone = await house.credential(*SCOPES)
    await revoke(house.services, house.ours.workspace, UUID(hex=gone.secret[7:39]))
    answers = [await ask(house, route, None)]
    for scheme in ("Basic", "Token", "", "Bearer Bearer"):
        path, _ = request_of(route, house)
        given = {"authorization": f"{scheme} {house.ours.secret}"}
        answers.append(await house.http.request(route.method, path, headers=given))
    for secret in (*bad.values(), past.secret, gone.secret):
        path, body = request_of(route, house)
        header = f"Bearer {secret}".encode()
        answers.append(await house.http.request(route.method, path, json=body, headers={b"authorization": header}))
    for answer in answers:
        is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert len({answer.content for answer in answers}) == 1


@any_closed_route
async def test_a_bad_credential_is_refused_before_the_body_is_looked_at(house: House, route: Route) -> None:
    path, _ = request_of(route, house)
    answer = await house.http.request(route.method, path, content=b"\xff" * (route.limit + 1))
    is_problem(answer, 401)


async def test_the_name_of_the_scheme_may_be_written_in_any_case(house: House) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        answer = await house.http.get("/v1/policies", headers={"authorization": f"{scheme} {house.ours.secret}"})
        assert answer.status_code == 200


# ---- scopes


@any_closed_route
async def test_a_credential_that_lacks_just_the_scope_of_a_route_is_refused(house: House, route: Route) -> None:
    lacking = await house.credential(*(scope for scope in SCOPES if scope != route.scope))
    answer = await ask(house, route, lacking.secret)
    is_problem(answer, 403)
    assert answer.json()["type"].endswith(":scope_missing")


@any_closed_route
async def test_a_credential_with_just_the_scope_of_a_route_is_served(house: House, route: Route) -> None:
    assert route.scope is not None
    only = await house.credential(route.scope)
    answer = await ask(house, route, only.secret)
    if route.path == "/v1/test/clock":  # this service runs on the wall clock; its door is open all the same
        is_problem(answer, 404)
    else:
        assert answer.status_code == route.status, answer.text


async def test_an_import_needs_the_scope_of_imports_beside_that_of_consents(house: House) -> None:
    writer = await house.credential("consents:write")
    importer = await house.credential("consents:write", "imports:write")
    refused = await writer.choose("cus_import", "withdraw", body_actor={"type": "import"})
    is_problem(refused, 403)
    assert refused.json()["errors"][0]["pointer"] == "#/actor/type"
    assert (await importer.choose("cus_import", "withdraw", body_actor={"type": "import"})).status_code == 201


# ---- purposes and actions


@pytest.mark.parametrize(
    ("purpose", "action", "status"),
    [
        ("newsletter", "send", 200),
        ("newsletter", "profile", 403),
        ("personalisation", "profile", 403),
        ("personalisation", "send", 403),
        ("no_such_purpose", "send", 403),
    ],
)
async def test_a_check_outside_a_credentials_purposes_and_actions_is_403_and_no_deny(
    house: House, purpose: str, action: str, status: int
) -> None:
    limited = await house.credential("check", purposes=["newsletter"], actions=["send"])
    question = {"data_subject": {"id": "cus_x"}, "action": action, "purpose": purpose, "channel": "email"}
    answer = await limited.post("/v1/check", question)
    assert answer.status_code == status
    if status == 403:
        is_problem(answer, 403)
        assert "decision" not in answer.json()


async def test_choices_outside_a_credentials_purposes_are_refused_together(house: House) -> None:
    limited = await house.credential("consents:write", purposes=["newsletter"])
    events = [{"kind": "withdraw", "purpose": "newsletter"}, {"kind": "withdraw", "purpose": "analytics"}]
    is_problem(await limited.choose("cus_limited", "withdraw", body_events=events), 403)
    is_problem(await house.ours.get("/v1/data-subjects/cus_limited"), 404)
    assert (await limited.choose("cus_limited", "withdraw")).status_code == 201


async def test_an_offer_outside_a_credentials_purposes_is_refused(house: House) -> None:
    limited = await house.credential("consents:write", purposes=["newsletter"])
    offer = {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"}
    assert (await limited.post("/v1/offers", offer)).status_code == 201
    is_problem(await limited.post("/v1/offers", {**offer, "purposes": ["newsletter", "analytics"]}), 403)


# ---- routes that do not exist


@pytest.mark.parametrize("path", sorted({route.path for route in TABLE}))
async def test_another_method_is_405_with_the_methods_that_the_path_takes(house: House, path: str) -> None:
    concrete = request_of(next(route for route in TABLE if route.path == path), house)[0]
    taken = {route.method for route in TABLE if re.fullmatch(_pattern(route.path), concrete.partition("?")[0])}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - taken:
        answer = await house.http.request(method, concrete)
        is_problem(answer, 405)
        assert {one.strip() for one in answer.headers["allow"].split(",")} & taken


@pytest.mark.parametrize("route", [route for route in TABLE if route.method == "GET"], ids=name_of)
async def test_a_head_is_answered_as_its_get_would_be_without_a_body(house: House, route: Route) -> None:
    path = request_of(route, house)[0]
    whole, head = [await house.ours.request(method, path) for method in ("GET", "HEAD")]
    assert (head.status_code, head.headers["content-type"]) == (whole.status_code, whole.headers["content-type"])
    assert (len(whole.content) > 0, head.content) == (True, b"")
    if route.scope is not None:
        refused = await house.http.head(path)
        assert (refused.status_code, refused.content) == (401, b"")


def _pattern(path: str) -> str:
    return re.sub(r"\\\{\w+(:path)?\\\}", lambda found: ".+" if found[1] else "[^/]+", re.escape(path))


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/check", "/v1/check/", "/v1/Check", "//v1/check", "/v1/checks", "/v1/policies/1/diff", "/metrics", "/docs", "/openapi.json", "/schema/swagger", "/v1/ledger", "/log", "/access/v1/evaluation"])  # fmt: skip
async def test_a_path_that_is_not_in_the_table_is_404(house: House, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        is_problem(await house.http.request(method, path), 404)
        is_problem(await house.http.request(method, path, headers={"authorization": "Bearer x"}), 404)


async def test_the_clock_route_is_not_served_where_the_clock_runs() -> None:
    assert all(route.path != "/v1/test/clock" for route in routes(public_log=False, test_clock=False))


# ---- another workspace


async def same(house: House, method: str, theirs: str, missing: str, bodies: tuple[Any, Any] = (None, None)) -> None:
    """What is theirs looks like what does not exist: status, headers and every byte."""
    known, unknown = [
        await house.ours.request(method, path, body) for path, body in zip((theirs, missing), bodies, strict=True)
    ]
    assert (known.status_code, known.headers, known.content) == (unknown.status_code, unknown.headers, unknown.content)
    assert known.status_code == 404


async def test_another_workspaces_people_look_like_nobody(house: House) -> None:
    person = f"cus_{house.their_name}"
    for suffix in ("", "/history"):
        await same(house, "GET", f"/v1/data-subjects/{person}{suffix}", f"/v1/data-subjects/cus_nobody{suffix}")
    patch = {"locale": "de"}
    await same(house, "PATCH", f"/v1/data-subjects/{person}", "/v1/data-subjects/cus_nobody", (patch, patch))
    lookups = [
        {"identifier": {"type": "email", "value": f"{name}@example.org"}} for name in (house.their_name, "nobody")
    ]
    await same(house, "POST", "/v1/data-subjects/lookup", "/v1/data-subjects/lookup", (lookups[0], lookups[1]))


async def test_another_workspaces_entries_look_like_none(house: House) -> None:
    entry = (await house.theirs.get("/v1/ledger/entries/2")).json()["entry"]
    for suffix in ("", "/proof"):
        none = "0198b1c4-0000-7000-8000-000000000000"
        await same(house, "GET", f"/v1/ledger/entries/{entry}{suffix}", f"/v1/ledger/entries/{none}{suffix}")


async def test_another_workspaces_policies_look_like_none(house: House) -> None:
    document = starter_policy("Only theirs GmbH")
    assert (await house.theirs.post("/v1/policies", {"document": document})).status_code == 201
    newest = (await house.theirs.get("/v1/policies")).json()["data"][-1]
    ours = (await house.ours.get("/v1/policies")).json()["data"]
    assert newest["hash"] not in {policy["hash"] for policy in ours}
    if newest["version"] > len(ours):
        await same(house, "GET", f"/v1/policies/{newest['version']}", "/v1/policies/99999999")
        await same(
            house, "POST", f"/v1/policies/{newest['version']}/activate", "/v1/policies/99999999/activate", ({}, {})
        )


async def test_another_workspaces_decisions_look_like_none(house: House) -> None:
    theirs = (await house.theirs.check(f"cus_{house.their_name}"))["decision_id"]
    await house.services.decisions.flush()
    assert (await house.theirs.get(f"/v1/decisions/{theirs}")).status_code == 200
    for suffix in ("", "/explain"):
        await same(house, "GET", f"/v1/decisions/{theirs}{suffix}", f"/v1/decisions/dec_{uuid4()}{suffix}")
    people = [f"/v1/data-subjects/{person}/decisions" for person in (f"cus_{house.their_name}", "cus_nobody")]
    await same(house, "GET", people[0], people[1])


async def test_decisions_outside_a_credentials_purposes_and_actions_look_like_none(house: House) -> None:
    person = f"cus_{house.our_name}"
    shared = (await house.ours.check(person, "advertising", "share", None))["decision_id"]
    await house.services.decisions.flush()
    limits: tuple[dict[str, Any], ...] = ({"purposes": ["newsletter"]}, {"actions": ["send"]})
    for limit in limits:
        limited = await house.credential("decisions:read", **limit)
        assert (await limited.get(f"/v1/decisions/{house.decision}")).status_code == 200
        for suffix in ("", "/explain"):
            hidden = await limited.get(f"/v1/decisions/{shared}{suffix}")
            none = await limited.get(f"/v1/decisions/dec_{uuid4()}{suffix}")
            assert (hidden.status_code, hidden.content) == (404, none.content)
        listed = (await limited.get(f"/v1/data-subjects/{person}/decisions?limit=1000")).json()["data"]
        assert house.decision in {one["decision_id"] for one in listed}
        assert {(one["purpose"], one["action"]) for one in listed} == {("newsletter", "send")}


async def test_another_workspaces_log_looks_like_none(house: House) -> None:
    for rest in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
        await same(house, "GET", f"/log/{house.their_name}/{rest}", f"/log/nobody-{os.getpid()}/{rest}")


async def test_a_check_about_another_workspaces_person_is_one_about_a_stranger(house: House) -> None:
    answers = [await house.ours.check(person) for person in (f"cus_{house.their_name}", "cus_nobody")]
    for answer in answers:
        for volatile in ("decision_id", "evaluated_at", "valid_until", "staleness_ms"):
            answer.pop(volatile)
        answer["data_subject"].pop("id")
    assert answers[0] == answers[1]
    assert answers[0]["data_subject"] == {"known": False}


async def test_a_choice_about_another_workspaces_person_does_not_reach_them(house: House) -> None:
    person = f"cus_{house.their_name}"
    before = (await house.theirs.get(f"/v1/data-subjects/{person}")).json()["consents"]
    withdrawn = await house.ours.choose(person, "withdraw")
    assert withdrawn.status_code == 201
    assert (await house.theirs.get(f"/v1/data-subjects/{person}")).json()["consents"] == before
    decided = await house.theirs.check(person)
    assert decided["decision"] == "permit", decided


async def test_another_workspaces_offer_is_worth_what_a_forged_one_is(house: House) -> None:
    body = {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"}
    theirs = (await house.theirs.post("/v1/offers", body)).json()["offer"]
    head, payload, signature = theirs.split(".")
    forged = f"{head}.{payload}.{signature[::-1]}"
    answers = [
        await house.ours.choose("cus_offered", "grant", body_evidence={"offer": offer}) for offer in (theirs, forged)
    ]
    assert answers[0].content == answers[1].content
    is_problem(answers[0], 409)


@dataclass(frozen=True)
class Things:
    """What a caller can name: things of another workspace, or such as never existed."""

    person: str
    mail: str
    entry: str
    index: int
    version: int
    log: str
    offer: str
    revision: str
    decision: str


NAMING_NOTHING = {
    "GET /v1/policies",
    "POST /v1/policies",
    "GET /v1/ledger/checkpoint",
    "GET /v1/ledger/keys",
    "POST /v1/test/clock",
}
"""Routes whose requests have no place for the name of a thing."""


def naming(route: Route, it: Things) -> list[tuple[str, Any]]:
    """Every way to name a thing to a route: path and body."""
    mail, anybody = {"type": "email", "value": it.mail}, {"id": "cus_anybody"}
    question = {"action": "send", "purpose": "newsletter", "channel": "email"}
    choice = {"actor": {"type": "data_subject"}, "method": "web_form", "surface": "https://shop.example/"}
    withdrawal = {**choice, "events": [{"kind": "withdraw", "purpose": "newsletter"}]}
    grant = {**choice, "events": [{"kind": "grant", "purpose": "newsletter", "notice": "newsletter@1"}]}
    shown = {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"}
    match name_of(route), route.path:
        case "POST /v1/check", path:
            at_least = {"mode": "at_least", "revision": it.revision}
            return [
                (path, {"data_subject": {"id": it.person}, **question}),
                (path, {"data_subject": {"identifier": mail}, **question}),
                (path, {"data_subject": anybody, **question, "consistency": at_least}),
            ]
        case "POST /v1/check/batch", path:
            people = ({"id": it.person}, {"identifier": mail})
            return [(path, {"items": [{"data_subject": who, **question}]}) for who in people]
        case "POST /v1/data-subjects/{id}/restriction", path:
            return [(path.format(id=it.person), {"restricted": True})]
        case "POST /v1/consents", path:
            return [
                (path, {"data_subject": {"id": it.person}, **withdrawal}),
                (path, {"data_subject": {**anybody, "identifiers": [mail]}, **withdrawal}),
                (path, {"data_subject": anybody, **grant, "evidence": {"offer": it.offer}}),
            ]
        case "POST /v1/consents/batch", path:
            named = ({"id": it.person}, {**anybody, "identifiers": [mail]})
            return [(path, {"items": [{"data_subject": one, **withdrawal}]}) for one in named]
        case "POST /v1/offers", path:
            return [(path, {**shown, "data_subject": {"id": it.person}})]
        case "PATCH /v1/data-subjects/{id}", path:
            return [(path.format(id=it.person), body) for body in ({"locale": "de"}, {"identifiers": {"add": [mail]}})]
        case "POST /v1/data-subjects/lookup", path:
            return [(path, {"identifier": one}) for one in (mail, {"type": "id", "value": it.person})]
        case (
            (
                "GET /v1/data-subjects/{id}"
                | "GET /v1/data-subjects/{id}/history"
                | "GET /v1/data-subjects/{id}/decisions"
            ),
            path,
        ):
            return [(path.format(id=it.person), None)]
        case "GET /v1/data-subjects/{id}/diff", path:
            return [(f"{path.format(id=it.person)}?from=2026-01-01T00:00:00Z", None)]
        case (("GET /v1/decisions/{id}" | "GET /v1/decisions/{id}/explain"), path):
            return [(path.format(id=it.decision), None)]
        case "POST /v1/policies/{version}/activate", path:
            return [(path.format(version=it.version), {})]
        case "GET /v1/policies/{version}", path:
            return [(path.format(version=it.version), None)]
        case (("GET /v1/ledger/entries/{key}" | "GET /v1/ledger/entries/{key}/proof"), path):
            return [(path.format(key=key), None) for key in (it.entry, it.index)]
        case "GET /v1/ledger/consistency", path:
            return [(f"{path}?from=1&to={it.index + 1}", None)]
        case "GET /log/{log}/checkpoint", path:
            return [(path.format(log=it.log), None)]
        case (("GET /log/{log}/tile/{rest:path}" | "GET /log/{log}/tile/entries/{rest:path}"), path):
            level = "0/" if "entries" not in path else ""
            return [(f"{path.partition('{rest')[0].format(log=it.log)}{level}000.p/1", None)]
        case name, _:
            assert name in NAMING_NOTHING, f"say in this test how {name} names something"
            return []


def told(answer: httpx.Response, it: Things) -> tuple[int, list[tuple[str, str]], str]:
    """What an answer tells: all of it but what the caller had said itself, and what is new in every answer."""
    text = answer.text
    for said in (it.person, it.mail):
        text = text.replace(said, "(said)")
    for fresh in (
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"\d{4}-\d\d-\d\dT[\d:.]+Z",
        r'(?<="leaf_hash":")[0-9a-f]{64}', r'(?<="offer":")[^"]+', r'(?<="staleness_ms":)\d+',
    ):  # fmt: skip
        text = re.sub(fresh, "(new)", text)
    return answer.status_code, [one for one in answer.headers.multi_items() if one[0] != "content-length"], text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def theirs(house: House) -> Things:
    """Of another workspace one of each, none of which a new workspace has too."""
    for _ in range(10):
        assert (await house.theirs.choose("cus_more", "withdraw", purpose="analytics")).status_code == 201
    person = (await house.theirs.get(f"/v1/data-subjects/cus_{house.their_name}")).json()
    entry = (await house.theirs.get("/v1/ledger/entries/12")).json()
    shown = {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"}
    decision = (await house.theirs.check(f"cus_{house.their_name}"))["decision_id"]
    await house.services.decisions.flush()
    return Things(
        person=f"cus_{house.their_name}",
        mail=f"{house.their_name}@example.org",
        entry=entry["entry"],
        index=entry["index"],
        version=(await house.theirs.get("/v1/policies")).json()["data"][-1]["version"],
        log=house.their_name,
        offer=(await house.theirs.post("/v1/offers", shown)).json()["offer"],
        revision=person["revision"],
        decision=decision,
    )


@any_closed_route
async def test_whatever_is_another_workspaces_answers_like_what_never_existed(
    house: House, theirs: Things, route: Route
) -> None:
    """For every way to name something to every route: two new workspaces ask, alike in all but what they name."""
    nobody = "n" * len(house.their_name)
    head, payload, signature = theirs.offer.split(".")
    nobodys = Things(
        person=f"cus_{nobody}",
        mail=f"{nobody}@example.org",
        entry=str(uuid4()),
        index=theirs.index + 1000,
        version=theirs.version + 1000,
        log=nobody,
        offer=f"{head}.{payload}.{signature[::-1]}",
        revision=revision_token(1, theirs.index + 1000),
        decision=f"dec_{uuid4()}",
    )
    visitors = []
    for _ in range(2):
        workspace = await create(house.services, f"visitor-{uuid4().hex[:12]}", controller="One and the same GmbH")
        issued = await issue(house.services, workspace, component="tests", scopes=SCOPES)
        visitors.append(Api(house.http, house.services, workspace, issued.secret))
    for asked, unknown in zip(naming(route, theirs), naming(route, nobodys), strict=True):
        answers = [
            await visitor.request(route.method, *one) for visitor, one in zip(visitors, (asked, unknown), strict=True)
        ]
        assert told(answers[0], theirs) == told(answers[1], nobodys)
        if route.method == "GET":
            assert answers[0].status_code in (404, 422)
            assert answers[0].content == answers[1].content


async def test_an_idempotency_key_that_another_workspace_used_is_free(house: House) -> None:
    key = uuid4().hex
    choice = {
        "data_subject": {"id": "cus_key"},
        "events": [{"kind": "withdraw", "purpose": "newsletter"}],
        "actor": {"type": "data_subject"},
    }
    answers = [await api.post("/v1/consents", choice, idempotency_key=key) for api in (house.theirs, house.ours)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["entries"] != answers[1].json()["entries"]


# ---- revocation, and guesses


async def test_a_revoked_credential_is_refused_within_a_second_on_every_replica(server: Embedded, house: House) -> None:
    """The revocation goes through services of its own, as from the command line: nothing tells the running one."""
    used = await house.credential("policy:read")
    assert (await used.get("/v1/policies")).status_code == 200
    async with services_on(server) as elsewhere:
        await revoke(elsewhere, house.ours.workspace, UUID(hex=used.secret[7:39]))
    loop = asyncio.get_running_loop()
    revoked_at = loop.time()
    served = revoked_at
    while loop.time() < revoked_at + 1.3:
        asked_at = loop.time()
        if (await used.get("/v1/policies")).status_code == 200:
            served = asked_at
        await asyncio.sleep(0.01)
    assert served - revoked_at < 1.0
    is_problem(await used.get("/v1/policies"), 401)


async def test_a_credential_that_is_revoked_while_its_body_arrives_gets_no_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = await house.credential("check")
    path, body = request_of(next(route for route in TABLE if route.path == "/v1/check"), house)
    passed = 0.0
    for module in (endpoint, manage_credentials):
        monkeypatch.setattr(module, "boot_seconds", lambda: boot_seconds() + passed)

    async def arriving() -> AsyncIterator[bytes]:
        nonlocal passed
        await revoke(house.services, house.ours.workspace, UUID(hex=slow.secret[7:39]))
        passed = 8.0
        yield json.dumps(body).encode()

    headers = {"authorization": f"Bearer {slow.secret}", "content-type": "application/json"}
    is_problem(await house.http.request("POST", path, content=arriving(), headers=headers), 401)


async def test_ten_thousand_guesses_never_reach_the_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def find(connection: Any, mac: bytes) -> None:
        nonlocal asked
        asked += 1

    monkeypatch.setattr(credentials, "find", find)
    authenticate = Authenticator(house.services)
    letters, dice = string.ascii_letters + string.digits, random.Random(7)
    for number in range(10_000):
        guess = f"vol_sk_{os.urandom(16).hex()}_{''.join(dice.choices(letters, k=49))}"
        if number % 2:  # a guess with the id of a credential that exists
            guess = house.ours.secret[:40] + guess[40:]
        if parse(guess) is None:
            assert await authenticate(guess) is None
    assert asked == 0


async def test_well_formed_guesses_are_refused(house: House) -> None:
    authenticate = Authenticator(house.services)
    for _ in range(300):
        assert await authenticate(mint(os.urandom(16), os.urandom(32))) is None
