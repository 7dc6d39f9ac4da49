"""One request, whichever door it came through: authenticate, authorise, read, decode, handle, encode."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
import structlog

from volenti.api.problems import Problematic, body_of, headers_of, invalid_body, problem_of
from volenti.errors import Unavailable
from volenti.flows.clock import boot_seconds, milliseconds
from volenti.flows.manage_credentials import Authenticator
from volenti.flows.services import Services

Listener = Literal["internal", "admin", "public"]
Receive = Callable[[], Awaitable[Any]]

BODY_SECONDS = 10.0
CALLER_SECONDS = 1.0
"""How long it may take to find out who calls: then as if the database were away, which it is or as good as."""
PROMPT_SECONDS = 0.1
"""How long after the first look a body may be there; later, who sends it is looked up again, and may be revoked by now."""
REQUEST_SECONDS = 15.0
"""How long a request may take once its body is there; each route has shorter deadlines of its own, this one bounds their sum."""
DEPTH = 32
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 16
"""Of a form."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Caller:
    """Who calls: a component of one workspace, and what its credential may do. `purposes` and `actions` None: all."""

    workspace_id: UUID
    credential_id: UUID
    component: str
    scopes: frozenset[str]
    purposes: frozenset[str] | None
    actions: frozenset[str] | None


NOBODY = Caller(UUID(int=0), UUID(int=0), "", frozenset(), frozenset(), frozenset())
"""The caller of a route that needs no credential."""


@dataclass(frozen=True)
class Context:
    """What every request of a process shares."""

    services: Services
    authenticator: Authenticator
    ready: Callable[[], str | None]
    """None if the process should get requests, else why not."""


@dataclass(frozen=True)
class Call:
    """A request that passed the door. `body` is of the route's request type, or the raw bytes where it has none."""

    context: Context
    caller: Caller
    body: Any = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def services(self) -> Services:
        return self.context.services

    @property
    def workspace_id(self) -> UUID:
        return self.caller.workspace_id

    def number(self, name: str, default: int | None = None, *, least: int = 0, most: int = 2**53) -> int:
        """A number of the query. Raises a 422 problem if it is none, or out of range."""
        text = self.query.get(name)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"[0-9]{1,16}", text) or not least <= int(text) <= most:
            raise Problematic(
                422, "invalid_query", f"the query parameter {name} is a whole number from {least} to {most}"
            )
        return int(text)

    def instant(self, name: str) -> int | None:
        """An instant of the query, in milliseconds; None if it is not there. Raises a 422 problem if it is none."""
        text = self.query.get(name)
        if text is None:
            return None
        try:
            given = msgspec.convert(text.replace(" ", "+"), datetime)  # a plus sign that nobody escaped
            if given.tzinfo is not None:
                return milliseconds(given.astimezone(UTC))
        except (msgspec.ValidationError, OverflowError):
            pass
        raise Problematic(422, "invalid_query", f"the query parameter {name} is an RFC 3339 instant")


@dataclass(frozen=True)
class Reply:
    """An answer: a struct (JSON) or text or bytes of a media type."""

    body: Any = None
    status: int = 200
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """A route, declared once: what it needs, what it takes, what it gives, who may reach it. Not in the table: not served."""

    method: str
    path: str
    handler: Handler
    summary: str
    scope: str | None = None
    """The scope that the credential must have; None: no credential."""
    listener: Listener = "internal"
    limit: int = 0
    """Bytes of body; 0: none is read."""
    request: type[Any] | None = None
    form: bool = False
    """True: the body is what the form of a page sends, not JSON."""
    answer: type[Any] | None = None
    media: tuple[str, ...] = ("application/json",)
    """What the answer may be."""
    status: int = 200
    errors: tuple[int, ...] = ()
    """Statuses beyond those that every route of its kind has."""
    query: Mapping[str, str] = field(default_factory=dict)
    unreadable: Callable[[Context], Reply] | None = None
    """What the route answers where the database cannot even tell who calls; None: a 503 problem."""
    hot: bool = False
    """Served by the dispatcher in front of the framework."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that the route reads, and what they do."""


_encode = msgspec.json.Encoder().encode


async def respond(
    route: Route,
    context: Context,
    headers: Mapping[str, str],
    path: Mapping[str, str],
    query: Mapping[str, str],
    receive: Receive,
) -> tuple[int, dict[str, str], bytes]:
    """Answer a request on a route: status, headers and bytes. Never raises: what goes wrong is a problem document."""
    begun = boot_seconds()
    caller = NOBODY
    try:
        try:
            caller = await _authorised(route, context, headers)
            raw = await _read(receive, route.limit, headers) if route.limit else b""
            if boot_seconds() - begun > PROMPT_SECONDS:
                caller = await _authorised(route, context, headers)
        except Unavailable:
            if route.unreadable is None:
                raise
            return _sent(route.unreadable(context))
        body = _decode(route, raw, headers)
        reply = await _handled(route, Call(context, caller, body, path, query, headers, raw))
        status, answered, content = _sent(reply)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the caller gets a problem document
        problem = problem_of(error)
        if problem.status >= 500:
            level = log.error if problem.status == 500 else log.warning
            level(
                "request.failed",
                route=route.path,
                error=type(error).__name__,
                cause=type(error.__cause__).__name__,
                detail=str(error) if problem.status != 500 else "",
            )
        status, answered, content = problem.status, headers_of(problem), body_of(problem)
    log.info(
        "request", method=route.method, route=route.path, status=status, ms=round((boot_seconds() - begun) * 1000, 2),
        component=caller.component or None,
    )  # fmt: skip
    return status, answered, content


async def _handled(route: Route, call: Call) -> Reply:
    """The route's answer. Raises Unavailable after REQUEST_SECONDS: a cancelled write goes on, and its retry finds it."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS) as deadline:
            return await route.handler(call)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise Unavailable(
            "no answer in time; whether anything was written is unknown, a retry with the same key is safe"
        ) from error


def _sent(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    body = reply.body
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else _encode(body)
    return reply.status, {"content-type": reply.media, "cache-control": "no-store", **reply.headers}, content


async def _authorised(route: Route, context: Context, headers: Mapping[str, str]) -> Caller:
    if route.scope is None:
        return NOBODY
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    try:
        async with asyncio.timeout(CALLER_SECONDS):
            credential = await context.authenticator(secret.strip()) if scheme.lower() == "bearer" else None
    except TimeoutError as error:
        raise Unavailable("who calls could not be read in time; try again") from error
    if credential is None:
        raise Problematic(401, "unauthenticated", "send a live credential: Authorization: Bearer vol_sk_…")
    if route.scope not in credential.scopes:
        raise Problematic(403, "scope_missing", f"the credential does not have the scope {route.scope}")
    return Caller(
        credential.workspace_id, credential.credential_id, credential.component, frozenset(credential.scopes),
        None if credential.purposes is None else frozenset(credential.purposes), None if credential.actions is None else frozenset(credential.actions),
    )  # fmt: skip


async def _read(receive: Receive, limit: int, headers: Mapping[str, str]) -> bytes:
    """The whole body. Raises a problem when it is longer than the limit or does not come in time."""
    length = headers.get("content-length", "")
    if re.fullmatch(r"[0-9]+", length) and (len(length) > 16 or int(length) > limit):
        raise Problematic(413, "too_large", f"the body has more than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problematic(400, "incomplete", "the connection ended before the body did")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise Problematic(413, "too_large", f"the body has more than {limit} bytes")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise Problematic(408, "slow_body", "the body did not arrive in time") from None


_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def too_deep(raw: bytes, depth: int = DEPTH) -> bool:
    """True if JSON nests deeper than allowed: found before any parser descends."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    level = 0
    for token in _TOKENS.finditer(raw):
        if token[0] in (b"[", b"{"):
            level += 1
            if level > depth:
                return True
        elif token[0] in (b"]", b"}"):
            level -= 1
    return False


def _decode(route: Route, raw: bytes, headers: Mapping[str, str]) -> Any:
    if route.request is None:
        return raw
    expected = FORM if route.form else "application/json"
    if headers.get("content-type", expected).partition(";")[0].strip().lower() != expected:
        raise Problematic(415, "media_type", f"send {expected}")
    return decode_form(raw, route.request) if route.form else decode_json(raw, route.request)


def _distinct(members: list[tuple[str, Any]]) -> None:
    if len(dict(members)) != len(members):
        raise Problematic(400, "duplicate_member", "an object of the document names a member twice")


_MEMBERS = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=len, parse_float=len)
"""Finds what msgspec passes over: of two members of one name it takes the last, another reader the first."""


def decode_json(raw: bytes, type: Any) -> Any:  # noqa: A002
    """Decode a body. Raises a 400 problem for what is no JSON, a 422 with a pointer for what does not fit."""
    if too_deep(raw):
        raise Problematic(400, "too_deep", f"the document nests deeper than {DEPTH} levels")
    try:
        decoded = msgspec.json.decode(raw, type=type)
        _MEMBERS.decode(raw.decode())
        return decoded
    except msgspec.ValidationError as error:
        raise invalid_body(error) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problematic(400, "malformed_json", "the body is not JSON in UTF-8") from None


def decode_form(raw: bytes, type: Any) -> Any:  # noqa: A002
    """Decode what a form sent. Raises a 400 problem for what is no form, a 422 with a pointer for what does not fit."""
    try:
        fields = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MOST_FIELDS) if raw else []  # fmt: skip
    except ValueError:
        raise Problematic(400, "malformed_form", f"the body is no {FORM}") from None
    if len(dict(fields)) != len(fields):
        raise Problematic(400, "duplicate_member", "the form names a field twice")
    try:
        return msgspec.convert(dict(fields), type)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from None


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The caller's Idempotency-Key, quoted (RFC 8941) or bare. Raises a 400 problem for one that cannot be used."""
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise Problematic(400, "idempotency_key", "an Idempotency-Key has 1 to 255 printable characters")
    return key
