"""Whatever arrives on a JSON route that is no request of it: a 4xx problem document, nothing stored, nothing repeated back.

The routes are those of the route table and the members those of their types, so that a new one is covered by itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio
from msgspec import inspect

from conftest import Api
from deployments import services_on
from volenti.api import wire
from volenti.api.app import Application
from volenti.api.endpoint import DEPTH, Route
from volenti.api.routes import routes
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import SCOPES, issue
from volenti.flows.services import Services
from volenti.store import ledger
from volenti.store.embedded import Embedded
from volenti.telemetry import configure

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "Canary7Kj"
JSON_ROUTES = [
    route for route in routes(public_log=False, test_clock=True) if route.request is not None and not route.form
]
any_json_route = pytest.mark.parametrize("route", JSON_ROUTES, ids=lambda route: f"{route.method} {route.path}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Embedded) -> AsyncIterator[Api]:
    """One running application for the whole table, with the route of the test clock in it."""
    async with services_on(server) as services:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Services]:
            yield services

        workspace = await create(services, f"bad-input-{uuid4().hex[:12]}")
        issued = await issue(services, workspace, component="tests", scopes=SCOPES)
        configure(services.settings.log_level)
        app: Any = Application(opening, public_log=False, test_clock=True)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with app.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
            yield Api(http, services, workspace, issued.secret)


async def size(api: Api) -> int:
    async with api.services.database.workspace("volenti_app", api.workspace) as connection:
        return (await ledger.head(connection, api.workspace)).size


async def refused(api: Api, route: Route, body: Any, **headers: str) -> dict[str, Any]:
    """The problem document with which a route refuses a body, having stored nothing."""
    before = await size(api)
    answer = await api.request(route.method, route.path.format(id="cus_bad", version="1"), body, **headers)
    assert await size(api) == before
    return problem(answer)


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert CANARY not in answer.text
    document: dict[str, Any] = answer.json()
    assert document["type"].startswith("urn:volenti:problem:")
    assert document["status"] == answer.status_code
    assert document["title"]
    assert document["detail"]
    return document


# ---- bytes that are no JSON, or JSON that no route takes

deep = 50_000
NO_JSON = {
    "nothing": b"",
    "white space": b" \r\n\t ",
    "half an object": b'{"data_subject": {"id": "Canary7Kj"',
    "half a string": b'{"data_subject": "Canary7Kj',
    "half an escape": b'{"data_subject": "Canary7Kj\\',
    "half a surrogate pair": b'{"data_subject": "\\ud83d\\u"}',
    "no JSON": b"Canary7Kj",
    "a form": b"data_subject=Canary7Kj&action=send",
    "single quotes": b"{'data_subject': 'Canary7Kj'}",
    "a bare member": b'{data_subject: "Canary7Kj"}',
    "a comment": b'{"data_subject": null /* Canary7Kj */}',
    "a trailing comma": b'{"data_subject": {"id": "Canary7Kj"},}',
    "two documents": b"{}{}",
    "something behind": b"{} Canary7Kj",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"data_subject": "Canary7Kj"}'.encode("utf-16"),
    "UTF-32": '{"data_subject": "Canary7Kj"}'.encode("utf-32"),
    "Latin-1": '{"data_subject": {"id": "Ren\xe9 Canary7Kj"}}'.encode("latin-1"),
    "an overlong sequence": b'{"data_subject": {"id": "\xc0\xaf"}}',
    "a surrogate in UTF-8": b'{"data_subject": {"id": "\xed\xa0\x80"}}',
    "beyond Unicode": b'{"data_subject": {"id": "\xf4\x90\x80\x80"}}',
    "invalid UTF-8 in a name": b'{"\xff": 1}',
    "a NUL byte": b'{"data_subject": {"id": "Canary\x007Kj"}}',
    "a control byte": b'{"data_subject": {"id": "Canary\x1b7Kj"}}',
    "a line break in a string": b'{"data_subject": {"id": "Canary7Kj\n"}}',
    "an escaped high surrogate": b'{"data_subject": {"id": "\\ud800"}}',
    "an escaped low surrogate": b'{"data_subject": {"id": "\\udc00 Canary7Kj"}}',
    "surrogates the wrong way round": b'{"data_subject": {"id": "\\udc00\\ud800"}}',
    "a surrogate in a name": b'{"\\ud800": 1}',
    "NaN": b'{"data_subject": NaN}',
    "Infinity": b'{"data_subject": Infinity}',
    "minus Infinity": b'{"data_subject": -Infinity}',
    "a number beyond doubles": b"1e999",
    "a member beyond doubles": b'{"data_subject": 1e999}',
    "a leading zero": b'{"data_subject": 007}',
    "a hexadecimal number": b'{"data_subject": 0x7f}',
    "a number of 5,000 digits": b"9" * 5000,
    "a member of 5,000 digits": b'{"data_subject": ' + b"9" * 5000 + b"}",
    "2^63": b'{"data_subject": 9223372036854775808}',
    "deep arrays": b"[" * deep + b"]" * deep,
    "deep objects": b'{"a":' * deep + b"1" + b"}" * deep,
    "deep arrays in a member": b'{"preferences": ' + b"[" * deep + b"]" * deep + b"}",
    "deep and never closed": b"[" * deep,
    "one level too deep": b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "a string": b'"Canary7Kj"',
    "an array": b'[{"data_subject": "Canary7Kj"}]',
}


@any_json_route
@pytest.mark.parametrize("name", NO_JSON)
async def test_what_is_no_json_object_is_refused_everywhere(api: Api, route: Route, name: str) -> None:
    body = NO_JSON[name]
    document = await refused(api, route, body)
    assert document["status"] == (413 if len(body) > route.limit else document["status"])


# ---- members of the wrong shape


@dataclass(frozen=True)
class Fault:
    """A body with one member at fault, and the pointer that must name it (None: any, or none)."""

    what: str
    body: Any
    pointer: str | None


def faults(kind: inspect.Type, path: tuple[str | int, ...] = ()) -> Iterator[Fault]:
    """For a type and everything in it: bodies in which just this member is wrong."""
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        for part in kind.types:
            if not isinstance(part, inspect.NoneType):
                yield from faults(part, path)
        return
    for what, value, exact in wrong(kind):
        yield fault(what, path, value, exact=exact)
    match kind:
        case inspect.StructType(fields=fields):
            yield fault("an unknown member", (*path, "witdraw"), CANARY)
            yield fault("an unknown member with a strange name", path, {f"x {CANARY} é": 1})
            yield fault("a name that looks like a place", path, {f"x - at `$.{CANARY}": 1}, exact=False)
            for field in fields:
                yield from faults(field.type, (*path, field.encode_name))
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            yield from faults(item, (*path, 0))
        case _:
            pass


def wrong(kind: inspect.Type) -> Iterator[tuple[str, Any, bool]]:
    """Values that are none of a type, and whether the refusal must name the member (a type without a form takes them)."""
    number, text, truth, array, thing = 7, CANARY, True, [CANARY], {CANARY: CANARY}
    match kind:
        case inspect.StrType(max_length=longest, pattern=pattern):
            yield from (("a type", value, True) for value in (number, truth, array, thing))
            formed = pattern is not None
            for broken in ("\0", f"{CANARY}\0", f"{CANARY}\x1b[2J", f"{CANARY}\x7f", f"{CANARY}\x9b"):
                yield "control characters", broken, formed
            if longest is not None:
                yield "too long", "a" * (longest + 1), True
            if formed:
                yield "no text", "", True
                yield "a line break at the end", f"{CANARY}\n", True
        case inspect.LiteralType() | inspect.EnumType():
            yield from (("a type", value, True) for value in (number, truth, array, thing))
            for value in (CANARY, f"{CANARY}\0", f"unknown field `{CANARY.lower()}`", f"x - at `$.{CANARY}`"):
                yield "no such value", value, True
        case inspect.IntType():
            yield from (("a type", value, True) for value in (text, truth, array, thing, 1.5, -1))
            yield from (("a huge number", value, True) for value in (2**63, 2**64, -(2**63) - 1))
        case inspect.BoolType():
            yield from (("a type", value, True) for value in (text, number, array, thing))
        case inspect.DateTimeType():
            yield from (("a type", value, True) for value in (number, truth, array, thing))
            for value in ("", CANARY, "2026-02-30T00:00:00Z", "2026-07-01", "2026-07-01T00:00:00", f"{CANARY}Z"):
                yield "no instant", value, True
        case inspect.VarTupleType() | inspect.ListType() | inspect.DictType():
            yield from (("a type", value, True) for value in (number, truth, text))
        case inspect.StructType():
            yield from (("a type", value, True) for value in (number, truth, text, [[CANARY]]))
        case inspect.RawType():  # an item of a batch: a bad one is answered alone
            return
        case _:
            raise AssertionError(f"say what is wrong for {type(kind).__name__}")


def fault(what: str, path: tuple[str | int, ...], value: Any, *, exact: bool = True) -> Fault:
    for step in reversed(path):
        value = [value] if isinstance(step, int) else {step: value}
    return Fault(what, value, "#" + "".join(f"/{step}" for step in path) if exact else None)


def groups() -> list[Any]:
    """The faults of every route, gathered by member and kind, so that a failure names them."""
    found: dict[str, tuple[Route, list[Fault]]] = {}
    for route in JSON_ROUTES:
        for one in faults(inspect.type_info(route.request)):
            name = f"{route.method} {route.path} {one.pointer or ''} {one.what}"
            found.setdefault(name, (route, []))[1].append(one)
    return [pytest.param(route, listed, id=name) for name, (route, listed) in found.items()]


@pytest.mark.parametrize(("route", "listed"), groups())
async def test_a_member_at_fault_is_refused_with_a_pointer_to_it(api: Api, route: Route, listed: list[Fault]) -> None:
    for one in listed:
        document = await refused(api, route, one.body)
        if one.pointer is not None:
            assert document["status"] == 422, one
            assert document["errors"][0]["pointer"] == one.pointer, one
            assert document["errors"][0]["detail"]


@any_json_route
async def test_an_integer_of_5000_digits_is_refused_in_every_member(api: Api, route: Route) -> None:
    for member in inspect_members(route):
        await refused(api, route, b'{"%s": %s}' % (member.encode(), b"7" * min(5000, route.limit - 100)))


@any_json_route
async def test_a_member_that_is_named_twice_is_refused(api: Api, route: Route) -> None:
    for member in inspect_members(route):
        await refused(api, route, b'{"%s": null, "%s": null}' % (member.encode(), member.encode()))


def inspect_members(route: Route) -> list[str]:
    kind = inspect.type_info(route.request)
    assert isinstance(kind, inspect.StructType)
    return [field.encode_name for field in kind.fields]


# ---- whole requests that would be answered but for one thing

QUESTION = {"data_subject": {"id": "cus_1"}, "action": "use", "purpose": "analytics"}
EVENT = {"kind": "withdraw", "purpose": "newsletter"}
CHOICES = {"data_subject": {"id": "cus_1"}, "events": [EVENT], "actor": {"type": "data_subject"}}
OFFER = {"purposes": ["newsletter"], "surface": "https://shop.example/", "language": "en"}
WHOLE: dict[str, Any] = {
    "POST /v1/check": QUESTION,
    "POST /v1/check/batch": {"items": [{"key": "1", **QUESTION}], "defaults": {"jurisdiction": "DE"}},
    "POST /v1/data-subjects/{id}/restriction": {"restricted": True},
    "POST /v1/consents": CHOICES,
    "POST /v1/offers": OFFER,
    "PATCH /v1/data-subjects/{id}": {"locale": "de"},
    "POST /v1/data-subjects/lookup": {"identifier": {"type": "email", "value": "nobody@example.org"}},
    "POST /v1/policies/{version}/activate": {"at": "2999-01-01T00:00:00Z"},
}
ANSWERED = {
    "PATCH /v1/data-subjects/{id}": 404,
    "POST /v1/data-subjects/{id}/restriction": 404,
    "POST /v1/data-subjects/lookup": 404,
    "POST /v1/policies/{version}/activate": 200,
}


def route_of(name: str) -> Route:
    return next(route for route in JSON_ROUTES if f"{route.method} {route.path}" == name)


def twice(body: dict[str, Any]) -> Iterator[bytes]:
    """The body with one member named twice, for every member of every level."""
    text = json.dumps(body)
    for name, value in members(body):
        member = f"{json.dumps(name)}: {json.dumps(value)}"
        yield text.replace(member, f"{member}, {member}", 1).encode()
        escaped = f'"\\u{ord(name[0]):04x}{name[1:]}": {json.dumps(value)}'
        yield text.replace(member, f"{member}, {escaped}", 1).encode()


def members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield name, member
            yield from members(member)
    if isinstance(value, list):
        for element in value:
            yield from members(element)


@pytest.mark.parametrize("name", WHOLE)
async def test_duplicate_members_are_refused_at_every_level(api: Api, name: str) -> None:
    """Of two members of one name one reader takes the last and another the first: nobody may depend on which."""
    for body in twice(WHOLE[name]):
        assert (await refused(api, route_of(name), body))["type"].endswith(":duplicate_member")


LATE = "9999-12-31T23:59:59-12:00"
EARLY = "0001-01-01T00:00:00+12:00"
UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("POST /v1/check", {"data_subject": {}}, "/data_subject"),
    ("POST /v1/check", {"data_subject": {"id": "a", "identifier": {"type": "email", "value": "a@b.example"}}}, "/data_subject"),
    ("POST /v1/check", {"data_subject": {"identifier": {"type": "email", "value": f"{CANARY}@"}}}, "/data_subject/identifier/value"),
    ("POST /v1/check", {"data_subject": {"identifier": {"type": "phone", "value": CANARY}}}, "/data_subject/identifier/value"),
    ("POST /v1/check", {"include": ["evidence"] * 9}, "/include"),
    ("POST /v1/check", {"supported_obligations": ["a"] * 65}, "/supported_obligations"),
    ("POST /v1/check", {"data": {"categories": ["a"] * 33}}, "/data/categories"),
    ("POST /v1/check", {"jurisdiction": "ZZ"}, "/jurisdiction"),
    ("POST /v1/check", {"jurisdiction": "UK"}, "/jurisdiction"),
    ("POST /v1/check", {"consistency": {"mode": "at_least"}}, "/consistency/revision"),
    ("POST /v1/check", {"consistency": {"revision": "vr1.AAEAAAAAAAAABg"}}, "/consistency/revision"),
    ("POST /v1/check", {"consistency": {"mode": "strong", "revision": "vr1.AAEAAAAAAAAABg"}}, "/consistency/revision"),
    ("POST /v1/consents", {"data_subject": {}}, "/data_subject"),
    ("POST /v1/consents", {"data_subject": {"id": "a/b"}}, "/data_subject/id"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "identifiers": [{"type": "email", "value": CANARY}]}}, "/data_subject/identifiers/0/value"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "identifiers": [{"type": "external", "value": "x"}, {"type": "phone", "value": "0171 1234"}]}}, "/data_subject/identifiers/1/value"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "identifiers": [{"type": "external", "value": "x"}] * 17}}, "/data_subject/identifiers"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "identifiers": [{"type": "external", "value": "x", "verified_at": EARLY}]}}, "/data_subject/identifiers/0/verified_at"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "time_zone": "Europe/Atlantis"}}, "/data_subject/time_zone"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "jurisdiction": "ZZ"}}, "/data_subject/jurisdiction"),
    ("POST /v1/consents", {"data_subject": {"id": "a", "jurisdiction": "XX-CA"}}, "/data_subject/jurisdiction"),
    ("POST /v1/consents", {"events": []}, "/events"),
    ("POST /v1/consents", {"events": [EVENT] * 51}, "/events"),
    ("POST /v1/consents", {"events": [{**EVENT, "channels": ["email"] * 9}]}, "/events/0/channels"),
    ("POST /v1/consents", {"events": [EVENT, {**EVENT, "occurred_at": EARLY}]}, "/events/1/occurred_at"),
    ("POST /v1/consents", {"events": [{**EVENT, "occurred_at": LATE}]}, "/events/0/occurred_at"),
    ("POST /v1/consents", {"events": [{**EVENT, "valid_from": LATE}]}, "/events/0/valid_from"),
    ("POST /v1/consents", {"events": [{**EVENT, "valid_until": LATE}]}, "/events/0/valid_until"),
    ("POST /v1/consents", {"evidence": {"ip": "999.1.1.1"}}, "/evidence/ip"),
    ("POST /v1/consents", {"evidence": {"ip": ":::"}}, "/evidence/ip"),
    ("POST /v1/consents", {"evidence": {"authentication": {"method": "m", "at": LATE}}}, "/evidence/authentication/at"),
    ("POST /v1/consents", {"evidence": {"confirmation": {"method": "m", "at": EARLY}}}, "/evidence/confirmation/at"),
    ("POST /v1/offers", {"purposes": []}, "/purposes"),
    ("POST /v1/offers", {"purposes": ["newsletter"] * 51}, "/purposes"),
    ("POST /v1/offers", {"purposes": ["newsletter", "nothing"]}, "/purposes/1"),
    ("POST /v1/offers", {"purposes": ["order_updates"]}, "/purposes/0"),
    ("POST /v1/offers", {"language": "fr"}, "/language"),
    ("PATCH /v1/data-subjects/{id}", {"time_zone": "Europe/Atlantis"}, "/time_zone"),
    ("PATCH /v1/data-subjects/{id}", {"time_zone": "../../etc/passwd"}, "/time_zone"),
    ("PATCH /v1/data-subjects/{id}", {"identifiers": {"add": [{"type": "email", "value": CANARY}]}}, "/identifiers/add/0/value"),
    ("PATCH /v1/data-subjects/{id}", {"identifiers": {"remove": [{"type": "email", "value": CANARY}]}}, "/identifiers/remove/0/value"),
    ("PATCH /v1/data-subjects/{id}", {"jurisdiction": "UK"}, "/jurisdiction"),
    ("PATCH /v1/data-subjects/{id}", {"birth_date": ""}, "/birth_date"),
    ("PATCH /v1/data-subjects/{id}", {"guardian": {}}, "/guardian"),
    ("PATCH /v1/data-subjects/{id}", {"push_permission": "granted"}, "/push_permission"),
    ("PATCH /v1/data-subjects/{id}", {"relations": [{}]}, "/relations/0"),
    ("POST /v1/data-subjects/lookup", {"identifier": {"type": "email", "value": CANARY}}, "/identifier/value"),
]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
async def test_the_whole_requests_of_these_tables_are_answered(api: Api, name: str) -> None:
    route = route_of(name)
    answer = await api.request(route.method, route.path.format(id="cus_never", version=1), WHOLE[name])
    assert answer.status_code == ANSWERED.get(name, route.status), answer.text


@pytest.mark.parametrize(("name", "changed", "pointer"), UNFIT)
async def test_a_value_that_does_not_fit_is_refused_with_a_pointer_to_it(
    api: Api, name: str, changed: dict[str, Any], pointer: str
) -> None:
    document = await refused(api, route_of(name), WHOLE[name] | changed)
    assert document["status"] == 422
    assert document["errors"][0]["pointer"] == f"#{pointer}"


@pytest.mark.parametrize("text", ["\0", "controller: \0", "a: \ufeff\0", f"{CANARY}: [", "x: &a [*a, *a]", "? x\n", "", "7", "- " * 5000, "[" * 5000, "{a: " * 5000, "a: 1e999", "a: .nan", f"a: {'9' * 5000}", "a: !!python/object:os.system {}", "%TAG ! x", "\x85", "a: \x1b[2J"])  # fmt: skip
async def test_a_policy_that_is_none_is_refused_with_a_problem(api: Api, text: str) -> None:
    document = await refused(api, route_of("POST /v1/policies"), {"document": text})
    assert document["status"] == 422
    assert {error["pointer"] for error in document["errors"]} == {"#/document"}


# ---- around the body


@any_json_route
async def test_a_body_over_the_limit_is_413_with_and_without_an_announced_length(api: Api, route: Route) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(route.limit // 512 + 1):
            yield b" " * 512

    before = await size(api)
    assert (await refused(api, route, b" " * (route.limit + 1)))["status"] == 413
    headers = {"authorization": f"Bearer {api.secret}", "content-type": "application/json"}
    path = route.path.format(id="cus_bad", version="1")
    answer = await api.http.request(route.method, path, content=pieces(), headers=headers)
    assert problem(answer)["status"] == 413
    assert await size(api) == before


@any_json_route
@pytest.mark.parametrize("length", ["9" * 16, "9" * 17, "9" * 5000])
async def test_an_announced_length_over_the_limit_is_413_before_a_byte_is_read(
    api: Api, route: Route, length: str
) -> None:
    assert (await refused(api, route, b"{}", content_length=length))["status"] == 413


@any_json_route
@pytest.mark.parametrize("media", ["", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/yaml", "application/merge-patch+json", "application/jsonx", "application/json,text/plain"])  # fmt: skip
async def test_a_media_type_that_is_not_json_is_415(api: Api, route: Route, media: str) -> None:
    document = await refused(api, route, WHOLE.get(f"{route.method} {route.path}", {}), content_type=media)
    assert document["status"] == 415


async def test_json_with_parameters_or_in_capitals_is_json(api: Api) -> None:
    for media in ("application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"):
        assert (await api.post("/v1/check", QUESTION, content_type=media)).status_code == 200


@pytest.mark.parametrize("key", ["", " ", '""', "a" * 256, f"{CANARY}\x7f", f"{CANARY}\x85", f"\t{CANARY}"])
@pytest.mark.parametrize("name", ["POST /v1/consents"])
async def test_an_idempotency_key_that_cannot_be_used_is_refused(api: Api, name: str, key: str) -> None:
    before = await size(api)
    headers = {"authorization": f"Bearer {api.secret}".encode(), "idempotency-key": key.encode("latin-1")}
    answer = await api.http.post(name.split()[1], json=WHOLE[name], headers=headers)  # type: ignore[arg-type]
    if key.strip():
        assert problem(answer)["status"] == 400
        assert await size(api) == before
    else:
        assert answer.status_code in (201, 400)


@pytest.mark.parametrize("preference", ["wait=", "wait=-1", "wait=\xb2", "wait=" + "9" * 5000, "wait=1e9", "respond-async", CANARY])  # fmt: skip
async def test_a_preference_that_says_nothing_usable_is_no_fault(api: Api, preference: str) -> None:
    headers = {"authorization": f"Bearer {api.secret}".encode(), "prefer": preference.encode("latin-1")}
    answer = await api.http.post("/v1/consents", json=CHOICES, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 201, answer.text
    assert "proof" not in answer.json()["entries"][0]


PATHS = {
    "a NUL": "/v1/data-subjects/a%00b",
    "a line break": "/v1/data-subjects/a%0Ab",
    "a control character of Latin-1": "/v1/data-subjects/a%C2%85b",
    "bytes that are no UTF-8": f"/v1/data-subjects/{CANARY}%FF",
    "129 characters": "/v1/data-subjects/" + "a" * 129,
    "a history of a NUL": "/v1/data-subjects/a%00b/history",
    "a slash": f"/v1/data-subjects/{CANARY}%2Fb",
    "dots": f"/v1/data-subjects/../{CANARY}",
    "nobody": f"/v1/data-subjects/{CANARY}",
    "a version of NUL": "/v1/policies/%00",
    "a version of words": f"/v1/policies/{CANARY}",
    "a version of zero": "/v1/policies/0",
    "a huge version": "/v1/policies/" + "9" * 30,
    "a version in other digits": "/v1/policies/%D9%A1",
    "a negative index": "/v1/ledger/entries/-1",
    "a huge index": "/v1/ledger/entries/" + "9" * 18,
    "a huger index": "/v1/ledger/entries/" + "9" * 5000,
    "an entry of words": f"/v1/ledger/entries/{CANARY}",
    "an entry in braces": "/v1/ledger/entries/%7B0198b1c4-0000-7000-8000-000000000000%7D",
    "an unknown entry": "/v1/ledger/entries/0198b1c4-0000-7000-8000-000000000000",
    "a proof of words": f"/v1/ledger/entries/{CANARY}/proof",
    "another log": f"/log/{CANARY}/checkpoint",
    "a log of NUL": "/log/%00/checkpoint",
    "a tile of words": f"/log/{CANARY}/tile/0/{CANARY}",
    "no sizes": "/v1/ledger/consistency",
    "sizes of words": f"/v1/ledger/consistency?from={CANARY}&to=1",
    "sizes in other digits": "/v1/ledger/consistency?from=%D9%A1&to=%D9%A1",
    "sizes of zero": "/v1/ledger/consistency?from=0&to=0",
    "sizes the wrong way round": "/v1/ledger/consistency?from=2&to=1",
    "sizes beyond the log": "/v1/ledger/consistency?from=1&to=9007199254740992",
    "a huge size": "/v1/ledger/consistency?from=1&to=" + "9" * 5000,
    "another path": f"/v1/{CANARY}",
    "the root": "/",
}


@pytest.mark.parametrize("name", PATHS)
async def test_a_path_that_names_nothing_is_a_problem_that_does_not_repeat_it(api: Api, name: str) -> None:
    problem(await api.get(PATHS[name]))


@pytest.mark.parametrize("query", [f"limit={CANARY}", "limit=0", "limit=1001", "limit=-1", "limit=1.5", "cursor=-1", f"cursor={CANARY}", "limit=" + "9" * 5000, "as_of=2026-01-01", f"as_of={CANARY}", "as_of=0001-01-01T00:00:00%2B12:00"])  # fmt: skip
async def test_a_query_that_does_not_fit_is_refused(api: Api, query: str) -> None:
    await api.choose("cus_query", "withdraw")
    assert problem(await api.get(f"/v1/data-subjects/cus_query/history?{query}"))["status"] == 422


async def test_nothing_of_the_corpus_is_echoed_in_a_header(api: Api) -> None:
    answer = await api.post("/v1/check", {**QUESTION, CANARY: CANARY})
    assert CANARY not in str(answer.headers)


async def test_every_request_type_refuses_unknown_members() -> None:
    for route in JSON_ROUTES:
        for kind in _structs(inspect.type_info(route.request)):
            assert kind.forbid_unknown_fields, kind.cls.__name__
            assert issubclass(kind.cls, wire.Request)


def _structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    if isinstance(kind, inspect.StructType):
        yield kind
        for field in kind.fields:
            yield from _structs(field.type)
    for name in ("type", "item_type", "types"):
        inner = getattr(kind, name, ())
        for part in inner if isinstance(inner, tuple) else (inner,):
            if isinstance(part, msgspec.inspect.Type):
                yield from _structs(part)
