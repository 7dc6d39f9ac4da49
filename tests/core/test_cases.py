"""The core answers every case of the tables as it says.

`vectors/decisions.yaml` holds the decision cases of the design, `vectors/scenarios.yaml` its scenarios under the shipped
jurisdiction profiles. `test_cases_over_http` plays the same files against the running service.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
import pytest

from shipped_profiles import SHIPPED
from tables import Members, Table, at, expectation
from volenti.core.admission import (
    Admitted,
    Choice,
    Command,
    Facts,
    Refusal,
    Restriction,
    ShownOffer,
    admit,
    most_entries,
)
from volenti.core.asking import locked_until
from volenti.core.data_subject import (
    Act,
    DataSubjectState,
    Entry,
    Evidence,
    Guardian,
    Identifier,
    Relation,
    fold,
)
from volenti.core.decision import (
    Decision,
    Deny,
    Permit,
    Question,
    Situation,
    alternatives,
    evaluate,
    explain,
    remedies,
    requestable,
)
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.document import Action, Channel, MessageClass, Policy, RelationType
from volenti.core.policy.notice import PublishedNotice, newly_published
from volenti.core.reason import OF_LATER_VERSIONS, REASONS

DECISIONS, SCENARIOS = Table("decisions.yaml"), Table("scenarios.yaml")
PLAYED = [(table, case) for table in (DECISIONS, SCENARIOS) for case in table.cases]


class Publisher:
    """The policies of a case as they come into force, compiled anew whenever a rule of law begins or ends."""

    def __init__(self, publications: list[tuple[str, Policy]]) -> None:
        self.versions: list[tuple[int, Policy, tuple[PublishedNotice, ...]]] = []
        history: tuple[PublishedNotice, ...] = ()
        for when, policy in publications:
            moment = datetime.fromisoformat(when)
            new = newly_published(policy.notices, history)
            history += tuple(msgspec.structs.replace(notice, published_at=moment) for notice in new)
            self.versions.append((at(when), policy, history))
        self.compiled: list[tuple[int, int, CompiledPolicy]] = []

    def at(self, now: int) -> CompiledPolicy:
        version = max((n for n, (since, *_) in enumerate(self.versions) if since <= now), default=0)
        for number, since, compiled in self.compiled:
            if number == version and since <= now and (compiled.changes_at_ms is None or now < compiled.changes_at_ms):
                return compiled
        _, policy, history = self.versions[version]
        profiles = None if policy.jurisdictions is None else SHIPPED[policy.jurisdictions]
        fresh = compile_policy(policy, history, profiles, now)
        self.compiled.append((version, now, fresh))
        return fresh


_publishers: dict[tuple[int, str], Publisher] = {}


def publisher_of(table: Table, case: Members) -> Publisher:
    """Cases under the same policies share the compiled ones."""
    key = (id(table), table.policy_of(case))
    if key not in _publishers:
        _publishers[key] = Publisher(table.publications(case))
    return _publishers[key]


class Story:
    """A case as the core plays it: what was recorded by when, and the names of the entries."""

    def __init__(self, table: Table, case: Members) -> None:
        self.publisher = publisher_of(table, case)
        self.entries: list[Entry] = []
        self.names: dict[str, str] = {}
        self.to_come = list(table.events(case))
        times = [at(event["at"]) for event in self.to_come]
        assert times == sorted(times), "events are listed in the order in which they are sent"

    def state(self, as_of: int | None = None) -> DataSubjectState:
        return fold(entry for entry in self.entries if as_of is None or entry.recorded_at <= as_of)

    def known(self, as_of: int | None = None) -> bool:
        return any(as_of is None or entry.recorded_at <= as_of for entry in self.entries)

    def until(self, now: int) -> None:
        """Play what was sent up to an instant, itself included."""
        while self.to_come and at(self.to_come[0]["at"]) <= now:
            self._send(self.to_come.pop(0))

    def _send(self, event: Members) -> None:
        now = at(event["at"])
        policy, state = self.publisher.at(now), self.state()
        if "ask" in event:
            locked = locked_until(policy, state, event["ask"], now)
            assert locked == (at(event["locked_until"]) if "locked_until" in event else None), event
            if locked is not None:
                return
        command = self._command(event, now)
        number = len(self.names)
        ids = [f"{number}.{position}" for position in range(most_entries(command))]
        admission = admit(command, state, policy, now, ids)
        if "refused" in event:
            assert isinstance(admission, Refusal), event
            assert event["refused"] == admission.code
            return
        assert isinstance(admission, Admitted), (admission, event)
        for entry, obstacle in zip(admission.entries, admission.obstacles, strict=True):
            assert event.get("applied", True) is (obstacle is None), event
            self.names[entry.id] = event.get("as", "person" if "facts" in event else f"entry {number}")
            self.entries.append(Entry(entry.id, now, entry.event))
        assert admission.state == self.state()

    def _command(self, event: Members, now: int) -> Command:
        said: dict[str, Any] = {"actor": event["actor"], "component": "test", "guardian": event.get("guardian")}
        if "facts" in event:
            return Command(facts=_facts(event["facts"]), **said)
        if "restrict" in event:
            return Command(restriction=Restriction(lifted=not event["restrict"]), **said)
        if "ask" in event:
            return Command(asked=tuple(event["ask"]), **said)
        authenticated, confirmed = (
            Act("test", at(event[name])) if name in event else None for name in ("authentication", "confirmation")
        )
        return Command(
            choices=(self._choice(event),),
            method=event["method"],
            surface=event["surface"],
            evidence=Evidence(authentication=authenticated, confirmation=confirmed),
            offer=_offer(event, now) if event["kind"] in ("grant", "request") and event["shown"] else None,
            **said,
        )

    def _choice(self, event: Members) -> Choice:
        entry = next((entry for entry, name in self.names.items() if name == event.get("of")), None)
        return Choice(
            kind=event["kind"],
            purpose=event["purpose"],
            channels=tuple(event.get("channels", ())),
            notice=event["notice"],
            claimed_at=_member(event, "occurred_at"),
            valid_from=_member(event, "valid_from"),
            valid_until=_member(event, "valid_until"),
            names=entry,
        )


def _offer(event: Members, now: int) -> ShownOffer:
    return ShownOffer(
        id=f"offer {event['at']} {event['purpose']}",
        issued_at=now - 30_000,
        notices=frozenset((event["notice"] or "",)),
        purposes=frozenset((event["purpose"],)),
        preset=frozenset(),
    )


def _facts(told: Members) -> Facts:
    guardian = told.get("guardian")
    return Facts(
        added=tuple(
            Identifier(one["type"], one["value"], _member(one, "verified_at")) for one in told.get("identifiers", ())
        ),
        jurisdiction=told.get("jurisdiction"),
        time_zone=told.get("time_zone"),
        birth_date=told.get("birth_date"),
        guardian=None
        if guardian is None
        else Guardian(guardian["id"], guardian["method"], at(guardian["since"]), _member(guardian, "until")),
        relations=tuple(Relation(RelationType(one["type"]), at(one["at"])) for one in told.get("relations", ())),
    )


def _member(members: Members, name: str) -> int | None:
    return at(members[name]) if name in members else None


def _question(asked: Members, *, every_reason: bool) -> Question:
    supported = asked.get("supported_obligations")
    return Question(
        action=Action(asked["action"]),
        purpose=asked["purpose"],
        channel=None if asked["channel"] is None else Channel(asked["channel"]),
        topic=asked.get("topic"),
        message_class=MessageClass(asked["message_class"]) if "message_class" in asked else None,
        jurisdiction=asked.get("jurisdiction"),
        data_categories=tuple(asked.get("data_categories", ())),
        recipient=asked.get("recipient"),
        region=asked.get("region"),
        supported_obligations=None if supported is None else frozenset(supported),
        every_reason=every_reason,
    )


def answered(story: Story, policy: CompiledPolicy | None, state: DataSubjectState, decision: Decision, question: Question, now: int) -> Members:  # fmt: skip
    """The decision in the words of the tables."""
    reasons = decision.reasons
    offered = () if policy is None else alternatives(policy, state, question, now)
    return {
        "decision": "permit" if isinstance(decision, Permit) else "deny",
        "reason": reasons[0].reason.code,
        "reasons": [given.reason.code for given in reasons],
        "evidence": [story.names[given.event.entry] for given in reasons if given.event is not None],
        "obligations": [one.type for one in decision.obligations] if isinstance(decision, Permit) else [],
        "remedies": list(remedies(policy, state, question, decision, now)),
        "valid_until": decision.valid_until,
        "retry_at": reasons[0].retry_at,
        "determinate": not isinstance(decision, Deny) or decision.determinate,
        "alternatives": [{"channel": one.channel, "topic": one.topic} for one in offered],
    }


@pytest.mark.parametrize(("table", "case"), PLAYED, ids=lambda one: one["id"] if isinstance(one, dict) else "")
def test_each_case_is_answered_as_the_table_says(table: Table, case: Members) -> None:
    story = Story(table, case)
    for position, asked in enumerate(table.questions(case)):
        told_at = at(asked["at"])
        story.until(told_at)
        as_of = _member(asked, "as_of")
        now = told_at if as_of is None else as_of
        state = story.state(as_of)
        ground = dict(asked.get("situation", {}))
        policy = None if ground.pop("policy", None) == "missing" else story.publisher.at(now)
        question = _question(asked, every_reason=asked.get("every_reason", False))

        decision = evaluate(policy, state, question, now, Situation(**ground))
        known = story.known(as_of)
        page = known and requestable(policy, state, question, decision, now)
        answer = answered(story, policy, state, decision, question, now) | {"known": known, "access_request": page}
        expected = expectation(asked["expect"])
        assert expected == {name: answer[name] for name in expected}, f"{case['title']}, question {position}"

        other = msgspec.structs.replace(question, every_reason=not question.every_reason)
        again = evaluate(policy, state, other, now, Situation(**ground))
        assert (type(again), again.reasons[0], again.valid_until) == (type(decision), decision.reasons[0], decision.valid_until)  # fmt: skip
        if policy is not None:
            traced = explain(policy, state, question, now, Situation(**ground))
            assert (
                any(answer["reason"] in step.reasons for step in traced)
                or answer["reason"] == "system.evaluation_error"
            )
    story.until(2**62)  # what is sent after the last question must be answered as the table says, too


@pytest.mark.parametrize("table", [DECISIONS, SCENARIOS], ids=["decisions", "scenarios"])
def test_every_case_has_a_name_of_its_own_and_asks_in_the_order_of_time(table: Table) -> None:
    ids = [case["id"] for case in table.cases]
    assert sorted(ids) == sorted(set(ids))

    for case in table.cases:
        times = [at(asked["at"]) for asked in table.questions(case)]
        assert times == sorted(times), case["id"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (DECISIONS, [f"PC-{number:02}" for number in range(1, 54)]),
        (SCENARIOS, [f"S-{number:02}" for number in range(1, 20)]),
    ],
    ids=["decisions", "scenarios"],
)
def test_each_case_of_the_design_is_in_the_table_or_says_who_owns_it(table: Table, expected: list[str]) -> None:
    here = {found[0] for case in table.cases if (found := re.match(r"(PC|S)-\d\d", case["id"]))}
    elsewhere: dict[str, str] = table.content["elsewhere"]

    assert sorted(here | elsewhere.keys()) == expected
    assert {name for name, owner in elsewhere.items() if owner.startswith("in part: ")} == here & elsewhere.keys()


def test_the_tables_have_every_reason_that_the_core_can_give() -> None:
    expected = {code for table, case in PLAYED for asked in table.questions(case) for code in _codes(asked["expect"])}
    of_the_api = {"request.invalid", "request.out_of_scope"}  # an item of a batch that never reaches the core

    assert set(REASONS) - OF_LATER_VERSIONS - of_the_api == expected


def _codes(expect: Members) -> list[str]:
    codes: list[str] = expect.get("reasons", [])
    return [*codes, *([expect["reason"]] if "reason" in expect else [])]
