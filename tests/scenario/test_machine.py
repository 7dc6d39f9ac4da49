"""One stateful machine over the running application: whatever is done in whatever order, the answers are the model's.

Two replicas of the application on a real PostgreSQL whose clock stands until a step moves it; a workspace of its own for
each example. `model.py` says what should happen. Each step asks the checks that it may have changed; the end of an
example asks all of them and audits the ledger.

VOLENTI_MACHINE chooses how long it runs: `dev` (the default), `ci` (the same examples each time), or `soak` (`make soak`).
Examples are drawn in batches, each from a seed; a failure prints its steps, and the VOLENTI_MACHINE_SEED to begin with.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import asyncpg
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from conftest import Api
from deployments import fresh
from scenario.model import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Accepted,
    Choice,
    Offer,
    Question,
    Refused,
    Request,
    Workspace,
)
from volenti.api.app import application
from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import Clock, StandingClock, rfc3339
from volenti.flows.create_workspace import create
from volenti.flows.import_choices import import_choices
from volenti.flows.manage_credentials import SCOPES, issue, revoke
from volenti.flows.open_services import opened, stand_clock
from volenti.flows.read_imports import native
from volenti.flows.rebuild_states import rebuild
from volenti.flows.services import Services
from volenti.flows.verify_ledger import verify
from volenti.settings import Settings
from volenti.store.embedded import Embedded

pytestmark = pytest.mark.slow

T = TypeVar("T")

START = datetime(2026, 3, 28, 12, tzinfo=UTC)
PAST = 40 * DAY
"""How old a workspace is when an example begins, so that grants can be dated back."""
REVOKED_SECONDS = 1.0
"""Within which a revocation binds on every replica."""
TRIES = 5
SURFACE = "https://shop.example/signup"

PROFILES = {"dev": (4, 15.0, 20), "ci": (8, 45.0, 25), "soak": (100_000, 3600.0, 60)}
"""Batches at most, seconds after which none is begun, and the steps of an example."""
BATCH = 6
"""Examples of a batch: one seed."""


# ---- the running application


class House:
    """The deployment that all examples share: PostgreSQL, a clock, two replicas, and a workspace that is nobody's business."""

    def __init__(self, server: Embedded, portal: BlockingPortal) -> None:
        self.server, self.portal = server, portal
        self.settings = Settings(data_dir=str(server.data_dir), log_level="error")
        self._names = itertools.count()
        portal.call(stand_clock, self.settings, server.url, START)
        self.clock = StandingClock(int(START.timestamp() * 1000))
        self.replicas = [Replica(self), Replica(self)]
        for replica in self.replicas:
            replica.open()
        self.other = self.workspace()
        granted = self.call(self.other[0].choose, "ada", "grant")
        assert granted.status_code == 201

    def call(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run something in the loop of the replicas, and wait for it."""
        return self.portal.call(work, *arguments)

    def workspace(self) -> list[Api]:
        """A new workspace, as each replica serves it to a component that may do everything."""

        async def made() -> list[Api]:
            services = self.replicas[0].services
            document = starter_policy("Acme GmbH").replace('\njurisdictions: "2026.11"', "")  # the model knows no law
            workspace_id = await create(services, f"machine-{next(self._names)}", document=document)
            issued = await issue(services, workspace_id, component="tests", scopes=SCOPES)
            return [Api(one.http, one.services, workspace_id, issued.secret) for one in self.replicas]

        return self.call(made)

    def move_clock(self, by: int, api: Api) -> None:
        """Move the clock of the database and of all replicas, through the API of one."""
        answer = self.call(api.post, "/v1/test/clock", {"now": rfc3339(self.clock() + by)})
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()


class Replica:
    """One application with services of its own, which may be closed and opened again."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._running: AbstractContextManager[tuple[Services, httpx.AsyncClient]] | None = None

    def open(self) -> None:
        self._running = self._house.portal.wrap_async_context_manager(self._run())
        self.services, self.http = self._running.__enter__()

    def close(self) -> None:
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[tuple[Services, httpx.AsyncClient]]:
        async with opened(self._house.settings, self._house.server.url) as services:
            assert services.clock() == self._house.clock(), "the clock of the database stands where it was left"
            clock: Clock = self._house.clock
            running = replace(services, clock=clock)
            app = application(running)
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            try:
                async with (
                    app.started(),
                    httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http,
                ):
                    yield running, http
            finally:
                await running.decisions.close()  # of its own, since the clock was replaced


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with fresh() as server, start_blocking_portal() as portal:
        house = House(server, portal)
        try:
            yield house
        finally:
            house.close()


# ---- what is drawn

ASKED = 8
"""How many checks a step asks at most."""
PEOPLE = ("ada", "bob")
NOBODY = "zoe"
"""Is never written."""
PLACES = (None, "DE", "US", "US-CA")
CHANNELS = ("email", "sms")
QUESTIONS = (
    *(("newsletter", "send", channel, None) for channel in (*CHANNELS, "push", "post")),
    ("newsletter", "profile", None, None),
    ("newsletter", "sell", None, None),
    *(("tips", "send", channel, None) for channel in CHANNELS),
    *(("sharing", action, None, place) for action in ("share", "sell", "use") for place in ("US", "DE", None)),
    ("orders", "send", "email", None),
    ("nothing", "use", None, None),
)
"""Purpose, action, channel, and the place that the caller knows of."""


def _text(key: str, version: int) -> dict[str, Any]:
    words = {"title": key, "body": f"Yes to {key}, as worded for the {version}th time."}
    return {"en": words, "de": words}


def first_policy(starter: dict[str, Any]) -> dict[str, Any]:
    """The starter policy, from which no purpose may vanish, with one purpose a basis."""
    purposes = {
        "newsletter": {
            "class": "marketing",
            "actions": ["send", "profile"],
            "basis": {"default": "consent"},
            "channels": ["email", "sms", "push"],
            "notice": "newsletter",
            "consent": {},
        },
        "tips": {
            "class": "marketing",
            "actions": ["send"],
            "basis": {"default": "legitimate_interest"},
            "channels": ["email", "sms"],
            "notice": "tips",
        },
        "sharing": {
            "actions": ["share", "sell", "use"],
            "basis": {"default": "consent", "US": "opt_out", "US-CA": "opt_out"},
            "notice": "sharing",
            "consent": {},
        },
        "orders": {
            "class": "transactional",
            "actions": ["send"],
            "basis": {"default": "contract"},
            "channels": ["email"],
        },
    }
    notices = {key: {"version": 1, "text": _text(key, 1)} for key in ("tips", "sharing")}
    return {
        **starter,
        "markets": [],
        "purposes": {**starter["purposes"], **purposes},
        "notices": {**starter["notices"], **notices},
    }


def edited(document: dict[str, Any], what: str, value: Any, now: int) -> dict[str, Any]:
    """A copy of a policy with one thing changed."""
    policy: dict[str, Any] = json.loads(json.dumps(document))
    purposes = policy["purposes"]
    match what:
        case "notice":
            key, change = value
            version = policy["notices"][key]["version"] + 1
            policy["notices"][key] = {"version": version, "change": change, "text": _text(key, version)}
        case "consent":
            purpose, name, term = value
            purposes[purpose]["consent"].pop(name, None)
            if term is not None:
                purposes[purpose]["consent"][name] = term
        case "markets":
            policy["markets"] = value
        case "retired_at":
            purposes["tips"].pop("retired_at", None)
            if value is not None:
                purposes["tips"]["retired_at"] = rfc3339(now + value)
        case "basis":
            purposes["tips"]["basis"] = {"default": value}
        case _:
            raise AssertionError(what)
    return policy


EDITS = st.one_of(
    st.tuples(st.just("notice"), st.tuples(st.sampled_from(("newsletter", "sharing")), st.sampled_from(("material", "minor")))),
    st.tuples(
        st.just("consent"),
        st.one_of(
            st.tuples(st.sampled_from(("newsletter", "sharing")), st.just("valid_for"), st.sampled_from((None, "P1D", "P30D"))),
            st.tuples(st.just("newsletter"), st.just("minimum_evidence"), st.sampled_from((None, "E1", "E2", "E3"))),
        ),
    ),
    st.tuples(st.just("markets"), st.sampled_from(([], ["US"], ["DE", "US"]))),
    st.tuples(st.just("retired_at"), st.sampled_from((None, 0, HOUR))),
    st.tuples(st.just("basis"), st.sampled_from(("legitimate_interest", "opt_out", "contract"))),
)  # fmt: skip

PERSON = st.sampled_from(("ada", "ada", "bob"))
PURPOSE = st.sampled_from(("newsletter", "newsletter", "newsletter", "tips", "sharing", "orders"))
SCOPE = st.sampled_from(((), (), ("email",), ("sms",), ("email", "sms"), ("post",)))
AGO = st.sampled_from((None, None, None, 0, -1, -2 * SECOND, -HOUR, -2 * DAY, -29 * DAY, -30 * DAY, 4 * MINUTE, 6 * MINUTE))  # fmt: skip
"""When a choice was made, from now; the wrong side of five minutes ahead too."""
ACTOR = st.sampled_from(("data_subject", "data_subject", "data_subject", "operator", "guardian", "system", "import"))
RESTRICTIVE = st.sampled_from(("withdraw", "withdraw", "deny", "object"))
STEP = st.sampled_from((1, SECOND, 2 * SECOND, HOUR, DAY, 31 * DAY))


@dataclass(frozen=True)
class Drawn:
    """A choice with times from now, as it is drawn before the state is known."""

    kind: str
    purpose: str
    channels: tuple[str, ...]
    ago: int | None
    version: int | None
    """Of the notice, counted from the newest; None: no notice."""
    valid: tuple[int | None, int | None]

    def at(self, now: int, model: Workspace) -> Choice:
        notice = None
        if self.kind == "grant" and self.version is not None:
            versions = model.versions(self.purpose)
            notice = f"{self.purpose}@{versions[-1 - self.version % len(versions)] if versions else 1}"
        times = [None if time is None else now + time for time in (self.ago, *self.valid)]
        return Choice(self.kind, self.purpose, self.channels, notice, *times)


VALIDITY = st.sampled_from(((None, None),) * 4 + ((None, HOUR), (HOUR, None), (HOUR, DAY), (None, 10 * DAY), (None, 0)))
VERSION = st.sampled_from((0, 0, 0, 0, 1, None))
GRANT = st.builds(Drawn, st.just("grant"), PURPOSE, SCOPE, AGO, VERSION, VALIDITY)
REFUSAL = st.builds(Drawn, RESTRICTIVE, PURPOSE, SCOPE, AGO, st.none(), st.just((None, None)))
SIMPLE_GRANT = st.builds(Drawn, st.just("grant"), PURPOSE, st.sampled_from(((), ("email",))), st.none(), st.just(0), st.just((None, None)))  # fmt: skip
REFUSALS = st.lists(REFUSAL, min_size=1, max_size=2)
CHOICES = st.lists(st.one_of(GRANT, REFUSAL), min_size=1, max_size=3)


@dataclass(frozen=True)
class Circumstances:
    """How a request is made, apart from what it asks for."""

    actor: str = "data_subject"
    offered: bool = False
    described: bool = True
    confirmed: int | None = None
    authenticated: int | None = None
    email: str | None = None
    by_email: bool = False
    jurisdiction: str | None = None


ACT = st.sampled_from((None, None, 0, -HOUR))
CIRCUMSTANCES = st.builds(
    Circumstances,
    ACTOR,
    st.booleans(),
    st.sampled_from((True, True, False)),
    ACT,
    ACT,
    st.sampled_from((None, None, "own", "own", "ada")),
    st.booleans(),
    st.sampled_from(PLACES),
)


# ---- the machine


@dataclass
class Kept:
    """A request that was acknowledged under an idempotency key."""

    key: str
    request: Request
    secret: str
    answer: bytes
    at: int


@dataclass
class Revoked:
    secret: str
    since: float


class Machine(RuleBasedStateMachine):
    """See the module. `write` sends a request and compares; a rule is how a request comes about."""

    house: ClassVar[House]

    def __init__(self) -> None:
        super().__init__()
        self.apis = self.house.workspace()
        self.api = self.apis[0]
        self.turns = itertools.count()
        self.touched: set[str] = set()
        self.revision = ""
        starter = self.house.call(self.api.get, "/v1/policies/1").json()["document"]
        self.model = Workspace(policy=starter, size=3)  # the workspace, its policy, the credential
        self.publish(first_policy(starter))
        self.house.move_clock(PAST, self.api)
        self.offers: list[Offer] = []
        self.kept: list[Kept] = []
        self.imports: list[tuple[str, list[bytes]]] = []
        self.credentials: list[tuple[UUID, str]] = []
        self.revoked: list[Revoked] = []
        self.entries: list[str] = []
        self.keys = itertools.count()

    @property
    def now(self) -> int:
        return self.house.clock()

    def next_api(self) -> Api:
        """The replicas take turns."""
        return self.apis[next(self.turns) % len(self.apis)]

    # ---- writes

    def new_key(self) -> str:
        return f"key-{next(self.keys)}"

    def request(self, person: str, drawn: Sequence[Drawn], how: Circumstances) -> Request:
        """What was drawn, at this instant and in this state."""
        now, own = self.now, f"{person}@example.org"
        known = self.model.people.get(person)
        offer = self.offers[-1] if how.offered and self.offers else None
        return Request(
            person=person,
            choices=tuple(one.at(now, self.model) for one in drawn),
            actor=how.actor,
            offer=offer,
            described=how.described,
            confirmed_at=None if how.confirmed is None else now + how.confirmed,
            authenticated_at=None if how.authenticated is None else now + how.authenticated,
            email=None if how.email is None else own if how.email == "own" else f"{how.email}@example.org",
            jurisdiction=how.jurisdiction,
            by_email=how.by_email and how.email == "own" and known is not None and own in known.emails,
        )

    def write(self, request: Request, *, kept: bool = False) -> None:
        """Record a request and compare with the model, entry by entry."""
        key, api = self.new_key(), self.next_api()
        answer = self.house.call(send, api, request, key)
        expected = self.model.record(request, self.now)
        note(f"{request} -> {expected}")
        assert differs(answer, expected) is None, differs(answer, expected)
        self.acknowledged(request, answer)
        if kept and answer.status_code == 201:
            self.kept.append(Kept(key, request, api.secret, answer.content, self.now))

    def acknowledged(self, request: Request, answer: httpx.Response) -> None:
        self.touched |= {request.person} | {choice.purpose for choice in request.choices}
        if answer.status_code < 300:
            body = answer.json()
            self.entries += [entry["entry"] for entry in body["entries"]]
            self.revision = body["revision"]

    @rule(person=PERSON, drawn=GRANT, how=CIRCUMSTANCES, kept=st.booleans())
    def grant(self, person: str, drawn: Drawn, how: Circumstances, kept: bool) -> None:
        self.write(self.request(person, [drawn], how), kept=kept)

    @rule(person=PERSON, drawn=REFUSAL, how=CIRCUMSTANCES, kept=st.booleans())
    def refuse(self, person: str, drawn: Drawn, how: Circumstances, kept: bool) -> None:
        self.write(self.request(person, [drawn], how), kept=kept)

    @rule(person=PERSON, drawn=CHOICES, how=CIRCUMSTANCES, kept=st.booleans())
    def choose_several(self, person: str, drawn: list[Drawn], how: Circumstances, kept: bool) -> None:
        self.write(self.request(person, drawn, how), kept=kept)

    @precondition(lambda self: any(person.events for person in self.model.people.values()))
    @rule(which=st.integers(0, 99), kind=st.one_of(st.just("grant"), RESTRICTIVE), by=st.sampled_from((-1, 0, 1)), channels=SCOPE, how=CIRCUMSTANCES)  # fmt: skip
    def choose_beside(self, which: int, kind: str, by: int, channels: tuple[str, ...], how: Circumstances) -> None:
        """Just before, at, or just after the instant of another choice: as a phone does that was offline."""
        known = [(name, event) for name, person in sorted(self.model.people.items()) for event in person.events]
        person, event = known[which % len(known)]
        ago = event.occurred_at + by - self.now
        self.write(self.request(person, [Drawn(kind, event.choice.purpose, channels, ago, 0, (None, None))], how))

    @rule(person=PERSON, drawn=SIMPLE_GRANT, actor=st.sampled_from(("data_subject", "operator")), confirmed=ACT)
    def grant_what_was_read(self, person: str, drawn: Drawn, actor: str, confirmed: int | None) -> None:
        """As the sign-up form does it, or somebody who relays it: shown, looked at, sent back."""
        self.show(preset=False)
        self.house.move_clock(2 * SECOND, self.api)
        self.write(self.request(person, [drawn], Circumstances(actor, offered=True, confirmed=confirmed)))

    @rule(person=PERSON, drawn=SIMPLE_GRANT, refusal=RESTRICTIVE)
    def grant_and_withdraw(self, person: str, drawn: Drawn, refusal: str) -> None:
        """A withdrawal is effective from the moment of its answer, with and without its revision (the invariant asks)."""
        self.write(self.request(person, [drawn], Circumstances()))
        self.write(self.request(person, [replace(drawn, kind=refusal, channels=(), version=None)], Circumstances()))

    @rule(preset=st.sampled_from((False, False, False, True)))
    def show(self, preset: bool) -> None:
        """Offer everything that has a notice and is not retired; the newest offer is the one that a request carries."""
        purposes = ["newsletter", "tips", "sharing"]
        if any(self.model.retired(key, self.now) for key in purposes):
            refused = self.offered(purposes, [])
            assert (refused.status_code, kind_of(refused)) == (409, "purpose_retired")
            purposes = [key for key in purposes if not self.model.retired(key, self.now)]
        presets = ["newsletter"] if preset and "newsletter" in purposes else []
        answer = self.offered(purposes, presets)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        notices = frozenset(f"{key}@{self.model.policy['notices'][key]['version']}" for key in purposes)
        assert {one["notice"] for one in body["notices"]} == notices
        self.offers.append(Offer(body["offer"], self.now, frozenset(purposes), notices, frozenset(presets)))

    def offered(self, purposes: list[str], presets: list[str]) -> httpx.Response:
        request = {"purposes": purposes, "surface": SURFACE, "language": "en", "preset": presets}
        return self.house.call(self.next_api().post, "/v1/offers", request)

    @rule(person=PERSON, how=CIRCUMSTANCES)
    def state_facts(self, person: str, how: Circumstances) -> None:
        """Facts without a choice; of a person whom nobody knows there are none to change."""
        request = replace(self.request(person, [], how), offer=None, by_email=False, actor="operator")
        answer = self.house.call(send_facts, self.next_api(), request)
        if person not in self.model.people:
            assert answer.status_code == 404
            return
        assert (fault := differs(answer, self.model.record(request, self.now), status=200)) is None, fault
        self.acknowledged(request, answer)

    # ---- retries and races

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 50), other=st.booleans())
    def repeat(self, which: int, other: bool) -> None:
        """The same key: the first answer, byte for byte; for another request a refusal. Neither records anything."""
        kept = self.kept[which % len(self.kept)]
        if self.now - kept.at >= 6 * DAY:
            return
        request = replace(kept.request, described=not kept.request.described) if other else kept.request
        answer = self.house.call(send, self.as_caller(kept.secret), request, kept.key)
        if other:
            assert (answer.status_code, kind_of(answer)) == (422, "idempotency_key_reused"), answer.text
        else:
            assert (answer.status_code, answer.content) == (201, kept.answer)
            assert answer.headers["idempotency-replayed"] == "true"

    def as_caller(self, secret: str) -> Api:
        return replace(self.next_api(), secret=secret)

    @rule(person=PERSON, drawn=st.tuples(st.one_of(REFUSALS, CHOICES), REFUSALS), how=st.tuples(CIRCUMSTANCES, CIRCUMSTANCES))  # fmt: skip
    def race(self, person: str, drawn: tuple[list[Drawn], ...], how: tuple[Circumstances, ...]) -> None:
        """Two requests about one person at two replicas at once: there is an order that explains both answers."""
        requests = [self.request(person, *one) for one in zip(drawn, how, strict=True)]

        async def both() -> list[httpx.Response]:
            sent = [send(api, one, self.new_key()) for api, one in zip(self.apis, requests, strict=True)]
            return await asyncio.gather(*sent)

        answers = self.house.call(both)
        faults = []
        for order in ((0, 1), (1, 0)):
            tried = self.model.fork()
            found = [differs(answers[one], tried.record(requests[one], self.now)) for one in order]
            if found == [None, None]:
                self.model = tried
                for one in order:
                    self.acknowledged(requests[one], answers[one])
                return
            faults += found
        raise AssertionError(f"{requests}\n{[answer.text for answer in answers]}\n{faults}")

    @rule(person=PERSON, drawn=CHOICES, how=CIRCUMSTANCES)
    def send_twice_at_once(self, person: str, drawn: list[Drawn], how: Circumstances) -> None:
        """One request under one key at both replicas at once has one effect and one answer."""
        request, key = self.request(person, drawn, how), self.new_key()

        async def both() -> list[httpx.Response]:
            return await asyncio.gather(*(send(api, request, key) for api in self.apis))

        answers = self.house.call(both)
        expected = self.model.record(request, self.now)
        for answer in answers:
            assert (fault := differs(answer, expected)) is None, fault
        if isinstance(expected, Accepted):
            assert answers[0].content == answers[1].content
            assert sum("idempotency-replayed" in answer.headers for answer in answers) == 1
        self.acknowledged(request, answers[0])

    # ---- imports, policies, credentials, time, restarts

    @rule(person=PERSON, rows=st.lists(st.tuples(CHOICES, AGO, st.sampled_from(PLACES)), min_size=1, max_size=3))
    def import_rows(self, person: str, rows: list[tuple[list[Drawn], int | None, str | None]]) -> None:
        """A row is one request; its choices share an instant. Rows of one person keep their order, others run side by side."""
        lines, expected = [], []
        for drawn, ago, place in rows:
            shared = [replace(one, ago=ago, valid=(None, None)) for one in drawn]
            distinct = {(one.kind, one.purpose, one.channels): one for one in shared}.values()
            request = self.request(person, list(distinct), Circumstances(actor="import", jurisdiction=place))
            request = replace(request, described=False)
            lines.append(import_line(request))
            expected.append(self.model.record(request, self.now))
            self.touched |= {person} | {one.purpose for one in drawn}
        source = f"source-{next(self.keys)}"
        report = self._import(source, lines)
        applied = [one for one in expected if isinstance(one, Accepted)]
        refused = [one for one in expected if isinstance(one, Refused)]
        without = [one for one in applied if not all(in_force for _, in_force in one.entries)]
        assert (report.rows, report.applied, report.without_effect) == (len(rows), len(applied), len(without))
        assert sum(report.skipped.values()) == len(refused)
        assert set(report.skipped) <= {kind for one in refused for kind in one.kinds}
        if not refused:
            self.imports.append((source, lines))

    @precondition(lambda self: self.imports)
    @rule(which=st.integers(0, 50))
    def import_again(self, which: int) -> None:
        """A second run of what was applied adds nothing."""
        source, lines = self.imports[which % len(self.imports)]
        report = self._import(source, lines)
        assert (report.already_there, report.applied) == (len(lines), 0), report

    def _import(self, source: str, lines: list[bytes]) -> Any:
        services = self.next_api().services
        return self.house.call(import_choices, services, self.api.workspace, source, lambda: native(iter(lines)))

    @rule(edit=EDITS)
    def publish_policy(self, edit: tuple[str, Any]) -> None:
        """The next check decides by it, on every replica; what is in force already is not published again."""
        self.publish(edited(self.model.policy, *edit, self.now))

    def publish(self, document: dict[str, Any]) -> None:
        answer = self.house.call(self.next_api().post, "/v1/policies", {"document": json.dumps(document)})
        new = self.model.publish(document, self.now)
        assert answer.status_code == (201 if new else 200), answer.text
        self.revision = answer.json()["revision"]
        self.touched |= set(PEOPLE) | set(document["purposes"])

    @precondition(lambda self: len(self.credentials) < 2)
    @rule()
    def issue_credential(self) -> None:
        services = self.next_api().services
        issued = self.house.call(self._issue, services)
        self.model.size += 1
        self.credentials.append((UUID(issued.credential_id), issued.secret))
        for api in self.apis:  # from here on both replicas remember it
            assert self.house.call(replace(api, secret=issued.secret).get, "/v1/policies").status_code == 200

    async def _issue(self, services: Services) -> Any:
        return await issue(services, self.api.workspace, component="more", scopes=SCOPES)

    @precondition(lambda self: self.credentials)
    @rule(which=st.integers(0, 5))
    def revoke_credential(self, which: int) -> None:
        credential_id, secret = self.credentials.pop(which % len(self.credentials))
        self.house.call(revoke, self.next_api().services, self.api.workspace, credential_id)
        self.model.size += 1
        self.revoked.append(Revoked(secret, time.monotonic()))

    @rule(by=STEP)
    def advance_clock(self, by: int) -> None:
        self.house.move_clock(by, self.next_api())
        self.touched |= set(PEOPLE) | set(self.model.policy["purposes"])

    @precondition(lambda self: self.model.boundaries(self.now))
    @rule(which=st.integers(0, 9), before=st.booleans())
    def advance_clock_to_a_boundary(self, which: int, before: bool) -> None:
        """To an instant at which time alone changes an answer, or to just before it."""
        boundaries = self.model.boundaries(self.now)
        by = boundaries[which % len(boundaries)] - before - self.now
        self.advance_clock(max(by, 1))

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """A replica that is opened again remembers nothing and answers the same; a revoked credential least of all."""
        replica = self.house.replicas[which]
        replica.close()
        replica.open()
        secrets = (self.api.secret, self.house.other[0].secret)
        self.apis[which] = Api(replica.http, replica.services, self.api.workspace, secrets[0])
        self.house.other[which] = Api(replica.http, replica.services, self.house.other[which].workspace, secrets[1])
        self.api = self.apis[0]
        self.touched |= set(PEOPLE)
        for one in self.revoked:
            self.refused(one, self.apis[which])

    def refused(self, one: Revoked, api: Api) -> None:
        answer = self.house.call(replace(api, secret=one.secret).get, "/v1/policies")
        assert answer.status_code == 401, f"a credential that was revoked {time.monotonic() - one.since:.1f} s ago"

    @rule()
    def read_everything(self) -> None:
        """Reading changes nothing, in no table."""
        paths = [
            *(f"/v1/data-subjects/{person}{more}" for person in (*PEOPLE, NOBODY) for more in ("", "/history")),
            "/v1/policies",
            "/v1/policies/1",
            f"/v1/ledger/entries/{self.model.size - 1}",
            f"/v1/ledger/entries/{self.model.size - 1}/proof",
            f"/v1/ledger/consistency?from=1&to={self.model.size}",
            "/v1/ledger/checkpoint",
            "/v1/ledger/keys",
            "/.well-known/jwks.json",
            "/readyz",
            "/schema/openapi.json",
        ]

        async def read() -> None:
            before = await self._tables()
            for path in paths:
                for method in ("GET", "HEAD", "OPTIONS"):
                    answer = await self.apis[0].request(method, path)
                    assert answer.status_code < 500, (method, path, answer.text)
            await self.apis[1].post("/v1/data-subjects/lookup", {"identifier": {"type": "email", "value": "ada@example.org"}})  # fmt: skip
            assert await self._tables() == before

        self.house.call(read)

    async def _tables(self) -> dict[str, str]:
        """The content of every table of the workspace, but for what is written or pruned by itself."""
        connection = await asyncpg.connect(self.house.server.url("volenti"), server_settings={"search_path": "volenti"})
        try:
            names = await connection.fetch(
                "SELECT table_name FROM information_schema.columns WHERE table_schema = 'volenti' AND column_name = 'workspace_id'"
            )
            return {
                name: await connection.fetchval(
                    f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {name} t WHERE workspace_id = $1",
                    self.api.workspace,
                )
                for (name,) in names
                if name not in ("ledger_checkpoint", "ledger_change", "idempotency", "decision_log", "decision_gap")
            }
        finally:
            await connection.close()

    # ---- what holds after every step

    @invariant()
    def answers_are_the_models(self) -> None:
        """Some checks of what the step touched, one of nobody; and the ledger ends where the model says."""
        about = [one for one in QUESTIONS if one[0] in self.touched]
        asked = [Question(person, *one) for person in sorted(self.touched & set(PEOPLE)) for one in about]
        some = random.Random(len(asked) + self.model.size).sample(asked, min(len(asked), ASKED))
        self.ask([*some, Question(NOBODY, *QUESTIONS[self.model.size % len(QUESTIONS)])])
        self.touched = set()

    def ask(self, questions: Sequence[Question]) -> None:
        """Each at either replica, with and without the newest revision."""

        async def ask() -> list[httpx.Response]:
            turn = next(self.turns)
            checks = [
                check(self.apis[number % 2], question, self.revision if (number + turn) % 3 else "")
                for number, question in enumerate(questions)
            ]
            ends = [self.apis[turn % 2].get(f"/v1/ledger/entries/{self.model.size - back}") for back in (1, 0)]
            return await asyncio.gather(*checks, *ends)

        now = self.now
        *answers, last, after = self.house.call(ask)
        assert (last.status_code, after.status_code) == (200, 404), (
            f"{self.model.size} entries: {last.text} {after.text}"
        )
        for question, answer in zip(questions, answers, strict=True):
            expected = self.model.decide(question, now)
            body = answer.json()
            assert answer.status_code == 200, (question, body)
            assert body["decision"] == expected.decision, (question, expected, body)
            assert body["reason"] in expected.reasons, (question, expected, body)
            assert body["data_subject"]["known"] == (question.person in self.model.people)
            until = round(datetime.fromisoformat(body["valid_until"]).timestamp() * 1000)
            assert now < until
            assert self.model.decide(question, until - 1).decision == expected.decision, "it outlives what it rests on"

    @invariant()
    def revoked_credentials_are_refused_within_a_second(self) -> None:
        for one in self.revoked:
            if time.monotonic() - one.since > REVOKED_SECONDS:
                self.refused(one, self.next_api())

    # ---- the end of an example

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:  # a step has failed: what follows from that would only hide it
            return
        self.everything_answers_as_the_model()
        self.another_workspace_saw_nothing()
        self.house.call(self._audit)
        if self.revoked:  # an example is over sooner than a second
            time.sleep(max(0.0, self.revoked[-1].since + REVOKED_SECONDS - time.monotonic()))
            for one, api in itertools.product(self.revoked, self.apis):
                self.refused(one, api)

    def everything_answers_as_the_model(self) -> None:
        for whom in (*PEOPLE, NOBODY):
            self.ask([Question(whom, *one) for one in QUESTIONS])
        for name, person in self.model.people.items():
            shown = self.house.call(self.next_api().get, f"/v1/data-subjects/{name}").json()
            standings = {(one["purpose"], one["channel"], one["state"]) for one in shown["consents"]}
            assert standings == self.model.standings(person, self.now)
            assert shown["jurisdiction"] == person.jurisdiction
            past = self.house.call(self.next_api().get, f"/v1/data-subjects/{name}/history?limit=1000").json()["data"]
            choices = [one for one in past if one["kind"].startswith("consent.")]
            assert [one["index"] for one in choices] == [event.index for event in person.events]
            effects = [one["effect"] == "in_force" for one in choices]
            assert effects == [person.in_force(event) for event in person.events]
            grades = [one["detail"].get("evidence_grade") for one in choices]
            assert grades == [f"E{event.grade}" if event.permissive else None for event in person.events]

    def another_workspace_saw_nothing(self) -> None:
        """What is ours looks to another one as if it did not exist, and theirs is as it was."""
        other = self.house.other[next(self.turns) % 2]
        question = ("newsletter", "send", "email", None)
        assert self.house.call(check, other, Question("ada", *question), "").json()["decision"] == "permit"
        assert self.house.call(check, other, Question("bob", *question), "").json()["data_subject"]["known"] is False
        for path in ("/v1/data-subjects/bob", *(f"/v1/ledger/entries/{entry}" for entry in self.entries[-3:])):
            assert self.house.call(other.get, path).status_code == 404

    async def _audit(self) -> None:
        services, workspace = self.apis[0].services, self.api.workspace
        reports = await verify(services, workspaces=[workspace])
        assert [finding for report in reports for finding in report.findings] == []
        assert [report.size for report in reports] == [self.model.size]
        rebuilt = await rebuild(services, workspaces_only=[workspace])
        assert [finding for one in rebuilt for finding in one.findings] == []
        assert [one.entries for one in rebuilt] == [self.model.size]
        connection = await asyncpg.connect(self.house.server.url("volenti"))
        try:
            idle = await connection.fetch(
                "SELECT query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND state_change < now() - interval '2 seconds'"
            )
        finally:
            await connection.close()
        assert [row[0] for row in idle] == []


# ---- the wire


async def patiently(request: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask again what a busy machine did not answer in time: that permits nothing, and was not read from something old."""
    answer = await request()
    for _ in range(TRIES):
        if answer.status_code != 503:
            break
        body = answer.json()
        assert body.get("decision", "deny") == "deny", body
        assert body.get("revision") is None, f"it was read, and is older than was asked for: {body}"
        await asyncio.sleep(0.2)
        answer = await request()
    return answer


async def send(api: Api, request: Request, key: str) -> httpx.Response:
    """POST /v1/consents."""
    body = {
        "data_subject": subject(request),
        "events": [event(choice) for choice in request.choices],
        "actor": {"type": request.actor},
        **({"method": "web_form", "surface": SURFACE} if request.described else {}),
        **({"evidence": found} if (found := evidence(request)) else {}),
    }
    return await patiently(lambda: api.post("/v1/consents", body, idempotency_key=key))


async def send_facts(api: Api, request: Request) -> httpx.Response:
    """PATCH /v1/data-subjects/{id}."""
    body: dict[str, Any] = {} if request.jurisdiction is None else {"jurisdiction": request.jurisdiction}
    if request.email is not None:
        body["identifiers"] = {"add": [{"type": "email", "value": request.email}]}
    return await api.request("PATCH", f"/v1/data-subjects/{request.person}", body)


async def check(api: Api, question: Question, revision: str) -> httpx.Response:
    """POST /v1/check, with a revision: not older than that."""
    body = {
        "data_subject": {"id": question.person},
        "action": question.action,
        "purpose": question.purpose,
        **({"channel": question.channel} if question.channel else {}),
        **({"jurisdiction": question.jurisdiction} if question.jurisdiction else {}),
        **({"consistency": {"mode": "at_least", "revision": revision}} if revision else {}),
        "detail": "all",
    }
    return await patiently(lambda: api.post("/v1/check", body, volenti_deadline_ms="5000"))


def subject(request: Request) -> dict[str, Any]:
    address = [] if request.email is None else [{"type": "email", "value": request.email}]
    return {
        **({} if request.by_email else {"id": request.person}),
        **({"identifiers": address} if address else {}),
        **({"jurisdiction": request.jurisdiction} if request.jurisdiction else {}),
    }


def event(choice: Choice) -> dict[str, Any]:
    times = {"occurred_at": choice.at, "valid_from": choice.valid_from, "valid_until": choice.valid_until}
    return {
        "kind": choice.kind,
        "purpose": choice.purpose,
        **({"channels": list(choice.channels)} if choice.channels else {}),
        **({"notice": choice.notice} if choice.notice else {}),
        **{name: rfc3339(at) for name, at in times.items() if at is not None},
    }


def evidence(request: Request) -> dict[str, Any]:
    acts = {"confirmation": request.confirmed_at, "authentication": request.authenticated_at}
    return {
        **({"offer": request.offer.token} if request.offer is not None else {}),
        **{name: {"method": "link", "at": rfc3339(at)} for name, at in acts.items() if at is not None},
    }


def import_line(request: Request) -> bytes:
    events = [event(choice) for choice in request.choices]
    return json.dumps({"data_subject": subject(request), "events": events}).encode()


def kind_of(answer: httpx.Response) -> str:
    kind: str = answer.json()["type"]
    return kind.removeprefix("urn:volenti:problem:")


def differs(answer: httpx.Response, expected: Accepted | Refused, *, status: int = 201) -> str | None:
    """How an answer to a write differs from what is expected; None if it does not."""
    if isinstance(expected, Refused):
        refused = answer.status_code in (409, 422) and kind_of(answer) in expected.kinds
        return None if refused else f"{expected.kinds} was expected of {answer.status_code} {answer.text}"
    if answer.status_code != status:
        return f"{expected} was expected of {answer.status_code} {answer.text}"
    entries = answer.json()["entries"]
    given = [(entry["kind"], entry["applied"]) for entry in entries]
    at = [entry["index"] for entry in entries]
    if given != list(expected.entries) or at != list(range(expected.index, expected.index + len(entries))):
        return f"{expected} was expected of {entries}"
    return None


# ---- the test


def test_whatever_is_done_the_answers_are_the_models_and_the_ledger_verifies(house: House) -> None:
    profile = os.environ.get("VOLENTI_MACHINE", "dev")
    batches, seconds, steps = PROFILES[profile]
    planted = (
        "VOLENTI_TEST_BREAK" in os.environ
    )  # then it counts that the bug is found, not how soon or how briefly told
    chosen = settings(
        max_examples=BATCH,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate] if planted else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    Machine.house = house
    first = 0 if profile == "ci" else random.SystemRandom().randrange(2**32)
    first = int(os.environ.get("VOLENTI_MACHINE_SEED", first))
    begun = time.monotonic()
    for number in range(first, first + batches):
        print(f"VOLENTI_MACHINE_SEED={number}")
        run_state_machine_as_test(seed(number)(Machine), settings=chosen)
        if time.monotonic() - begun > seconds and not planted:
            break
