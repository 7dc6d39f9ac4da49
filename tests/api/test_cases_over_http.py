"""The service answers every case of the tables as the core does: written, asked and answered over HTTP, with the clock moved.

The steps of all cases are played on one timeline, since the clock of a deployment only moves forward. Each case has a
person of its own; cases with the same policy share a workspace. What only a broken ground shows (`situation`) is left
to the core.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from conftest import Api
from deployments import fresh
from tables import Members, Table, at, expectation
from volenti.api.app import application
from volenti.core.policy.document import Policy
from volenti.core.policy.starter import starter_policy
from volenti.flows.clock import rfc3339
from volenti.flows.create_workspace import create
from volenti.flows.manage_credentials import SCOPES, issue
from volenti.flows.open_services import opened, stand_clock
from volenti.settings import Settings
from volenti.store.embedded import Embedded

pytestmark = pytest.mark.slow

TABLES = {name: Table(f"{name}.yaml") for name in ("decisions", "scenarios")}
STARTER: Members = yaml.safe_load(starter_policy("Acme GmbH"))
SHOWN_MS = 30_000
PUBLISH, OFFER, EVENT, ASK = range(4)
"""What comes first at one instant."""


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[Embedded, Settings]]:
    """A deployment of its own whose clock stands before everything that the tables tell."""
    first = min(at(when) for table in TABLES.values() for case in table.cases for when, _ in table.publications(case))
    with fresh() as running:
        settings = Settings(data_dir=str(running.data_dir), log_level="error", confirmation_days=30)
        asyncio.run(stand_clock(settings, running.url, datetime.fromtimestamp(first / 1000 - 1, UTC)))
        yield running, settings


@dataclass
class Play:
    """A case under way: its person, what its entries are called, and what was answered otherwise than the table says."""

    table: Table
    case: Members
    api: Api
    person: str
    names: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # the confirmation links of its writes, by name
    offers: dict[int, str] = field(default_factory=dict)
    known: bool = False
    failures: list[str] = field(default_factory=list)

    def fails(self, step: Members, found: Any) -> None:
        self.failures.append(f"{self.case['id']}, {step['at']}: {found}")

    async def offer(self, position: int, event: Members) -> None:
        body = {"purposes": [event["purpose"]], "surface": event["surface"], "language": "en"}
        answer = await self.api.post("/v1/offers", body)
        assert answer.status_code == 201, answer.text
        self.offers[position] = answer.json()["offer"]

    async def happen(self, position: int, event: Members) -> None:
        if "ask" in event:
            return await self._ask_person(event)
        if not self.known and event.get("kind") is None:
            await self._register()
        answer = await self._write(position, event)
        if "refused" in event:
            kind = answer.json().get("type", "").removeprefix("urn:volenti:problem:")
            if answer.status_code not in (409, 422) or kind != event["refused"]:
                self.fails(event, answer.text)
            return None
        if answer.status_code not in (200, 201):
            return self.fails(event, answer.text)
        self.known = True
        recorded = answer.json()
        for entry in recorded["entries"]:
            self.names[entry["entry"]] = event.get("as", "person" if "facts" in event else f"entry {position}")
            if entry["applied"] is not event.get("applied", True):
                self.fails(event, entry)
        if "confirmation" in recorded:
            self.tokens[event.get("as", "")] = recorded["confirmation"]["url"].rpartition("/")[2]
        return None

    async def _register(self) -> None:
        """Facts are told about a person whom the service knows: of a purpose that no case asks about."""
        answer = await self.api.choose(self.person, "deny", "newsletter", body_actor={"type": "operator"})
        assert answer.status_code == 201, answer.text
        self.known = True

    async def _ask_person(self, event: Members) -> None:
        body = {
            "purposes": event["ask"],
            "surface": "preference center",
            "language": "en",
            "data_subject": {"id": self.person},
        }
        answer = await self.api.post("/v1/offers", body)
        locked = answer.json().get("not_before") if answer.status_code == 409 else None
        expected = rfc3339(at(event["locked_until"])) if "locked_until" in event else None
        if answer.status_code not in (201, 409) or locked != expected:
            self.fails(event, answer.text)

    async def _write(self, position: int, event: Members) -> httpx.Response:
        actor = {"type": event["actor"], **({"id": event["guardian"]} if "guardian" in event else {})}
        if "facts" in event:
            return await self.api.request(
                "PATCH", f"/v1/data-subjects/{self.person}", self._facts(event["facts"]) | {"actor": actor}
            )
        if "restrict" in event:
            body = {"restricted": event["restrict"], "actor": actor}
            return await self.api.post(f"/v1/data-subjects/{self.person}/restriction", body)
        evidence: Members = {
            name: {"method": "test", "at": event[name]} for name in ("authentication", "confirmation") if name in event
        }
        if position in self.offers:
            evidence["offer"] = self.offers[position]
        request = {
            "data_subject": {"id": self.person},
            "events": [self._choice(event)],
            "actor": actor,
            "method": event["method"],
            "surface": event["surface"],
            "evidence": evidence,
        }
        return await self.api.post("/v1/consents", request)

    def _choice(self, event: Members) -> Members:
        taken = ("kind", "purpose", "channels", "notice", "occurred_at", "valid_from", "valid_until")
        choice = {name: event[name] for name in taken if event.get(name) is not None}
        if event["kind"] == "confirm":
            choice["token"] = self.tokens[event["of"]]
        if event["kind"] == "invalidate":
            choice["supersedes"] = next(entry for entry, name in self.names.items() if name == event["of"])
        return choice

    def _facts(self, told: Members) -> Members:
        facts = {name: value for name, value in told.items() if name != "identifiers"}
        if "identifiers" in told:  # an address belongs to one person in a workspace
            facts["identifiers"] = {"add": [one | {"value": self._own(one)} for one in told["identifiers"]]}
        return facts

    def _own(self, told: Members) -> str:
        value: str = told["value"]
        return f"{self.person}@{value.rpartition('@')[2]}" if told["type"] == "email" else value

    async def ask(self, asked: Members) -> None:
        answer = await self.api.post("/v1/check", self._question(asked))
        found = answer.json()
        if answer.status_code not in (200, 503) or (answer.status_code == 200) is not found["determinate"]:
            return self.fails(asked, answer.text)
        expected, said = expectation(asked["expect"]), self._said(found)
        differing = {name: (value, said[name]) for name, value in expected.items() if value != said[name]}
        if differing:
            self.fails(asked, f"expected and found {differing}")
        return None

    def _question(self, asked: Members) -> Members:
        data = {
            "categories": asked.get("data_categories"),
            "recipient": asked.get("recipient"),
            "region": asked.get("region"),
        }
        question = {
            name: asked.get(name)
            for name in ("action", "purpose", "channel", "topic", "jurisdiction", "supported_obligations", "as_of")
        }
        question["data"] = {name: value for name, value in data.items() if value is not None}
        if "message_class" in asked:
            question["message"] = {"class": asked["message_class"]}
        return {
            **{name: value for name, value in question.items() if value is not None},
            "data_subject": {"id": self.person},
            "detail": "all" if asked.get("every_reason") else "primary",
            "include": ["evidence", "alternatives"],
        }

    def _said(self, found: Members) -> Members:
        """The answer in the words of the tables."""
        said = {name: found[name] for name in ("decision", "reason", "determinate", "valid_until", "retry_at")}
        return expectation(
            said
            | {
                "reasons": [one["code"] for one in found["reasons"]],
                "evidence": [self.names.get(one["entry"], one["entry"]) for one in found["evidence"]],
                "obligations": [one["type"] for one in found["obligations"]],
                "remedies": [{name: one[name] for name in one if name != "form_url"} for one in found["remedies"]],
                "access_request": found["access_request"] is not None,
                "alternatives": [{"channel": one["channel"], "topic": one["topic"]} for one in found["alternatives"]],
                "known": found["data_subject"]["known"],
            }
        )


def document_of(policy: Policy) -> str:
    """What a workspace publishes: the case's policy, and the purposes that it was created with, which stay."""
    document: Members = json.loads(msgspec.json.encode(policy))
    for part in ("notices", "purposes", "topics"):
        document[part] = STARTER.get(part, {}) | document.get(part, {})
    return json.dumps(document)


Step = tuple[int, int, int, int]
"""Its instant, its kind, its case and its place there."""


def steps(number: int, play: Play, *, publishes: bool) -> Iterator[tuple[Step, Any]]:
    """What a case does, and when."""
    if publishes:
        for position, (when, policy) in enumerate(play.table.publications(play.case)):
            yield (at(when), PUBLISH, number, position), policy
    for position, event in enumerate(play.table.events(play.case)):
        if event.get("kind") in ("grant", "request") and event["shown"]:
            yield (at(event["at"]) - SHOWN_MS, OFFER, number, position), event
        yield (at(event["at"]), EVENT, number, position), event
    for position, asked in enumerate(play.table.questions(play.case)):
        if "situation" not in asked:
            yield (at(asked["at"]), ASK, number, position), asked


async def test_the_service_answers_every_case_as_the_tables_say(standing: tuple[Embedded, Settings]) -> None:
    running, settings = standing
    async with opened(settings, running.url) as services:
        app = application(services)
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with app.started(), httpx.AsyncClient(transport=transport, base_url="http://volenti.test") as http:
            workspaces: dict[str, Api] = {}
            timeline: list[tuple[Step, Any]] = []
            plays: list[Play] = []
            for name, table in TABLES.items():
                for case in table.cases:
                    policy = f"{name} {table.policy_of(case)}"
                    publishes = policy not in workspaces
                    if publishes:
                        workspace = await create(services, f"w{len(workspaces)}")
                        issued = await issue(services, workspace, component="tests", scopes=SCOPES)
                        workspaces[policy] = Api(http, services, workspace, issued.secret)
                    play = Play(table, case, workspaces[policy], case["id"].lower())
                    timeline += steps(len(plays), play, publishes=publishes)
                    plays.append(play)
            now = services.clock()
            for (instant, kind, number, position), content in sorted(timeline, key=lambda step: step[0]):
                play = plays[number]
                if instant > now:
                    now = instant
                    moved = await play.api.post("/v1/test/clock", {"now": rfc3339(now)})
                    assert moved.status_code == 200, moved.text
                if kind == PUBLISH:
                    answer = await play.api.post("/v1/policies", {"document": document_of(content)})
                    assert answer.status_code == 201, answer.text
                elif kind == OFFER:
                    await play.offer(position, content)
                elif kind == EVENT:
                    await play.happen(position, content)
                else:
                    await play.ask(content)

    failures = [failure for play in plays for failure in play.failures]
    assert not failures, "\n".join(failures)
