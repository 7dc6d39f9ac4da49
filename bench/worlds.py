"""What bench/evaluate.py asks: a usual policy with usual people, and the worst that a policy may be.

Everything follows from one seed. The instants lie far from every limit, so that an engine that counts months as days
answers the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from volenti.core.consent import ConsentEvent, ConsentKind, insert
from volenti.core.data_subject import UPDATED, DataSubjectState, Fact
from volenti.core.decision import Question
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose, compile_policy
from volenti.core.policy.document import Action, Channel, Policy
from volenti.core.policy.lint import lint
from volenti.core.policy.starter import starter_policy
from volenti.flows.profiles import profiles_of, shipped

SEED = 20261124
NOW = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1000)
DAY = 86_400_000

PURPOSES, TOPICS = 200, 40
SUPPORTED = frozenset((
    "delete_by", "exclude_from_training", "include_unsubscribe", "log_access", "no_automated_decision", "no_profiling",
    "restrict_recipients", "show_notice",
))  # fmt: skip
CHOICES = 24
"""Of the person with many choices, on each purpose."""


@dataclass(frozen=True)
class World:
    """A policy, the people, and what is asked about whom."""

    name: str
    policy: CompiledPolicy
    people: Sequence[DataSubjectState]
    cases: Sequence[tuple[int, Question]]
    """Which of the people, and the question."""


def usual() -> World:
    """The starter policy in Germany: most have agreed to the newsletter, some refused, withdrew or were never asked."""
    rng = random.Random(f"{SEED} usual")
    policy = _compiled(lint(starter_policy("Example"), shipped()).policy)
    agreed: list[ConsentKind] = ["grant"]
    kinds: list[list[ConsentKind]] = [*[agreed] * 6, ["deny"], ["grant", "withdraw"], ["grant", "object"], []]
    asked = ("newsletter", "analytics", "personalisation", "advertising")
    people = [
        DataSubjectState(
            jurisdiction="DE",
            consents={key: events for key in asked if (events := _history(rng, policy, key, rng.choice(kinds)))},
        )
        for _ in range(50)
    ]
    questions = [
        *[Question(action=Action.SEND, purpose="newsletter", channel=Channel.EMAIL, topic="weekly")] * 6,
        Question(action=Action.SEND, purpose="newsletter", channel=Channel.SMS),
        Question(action=Action.SEND, purpose="order_updates", channel=Channel.EMAIL),
        Question(action=Action.USE, purpose="analytics"),
        Question(action=Action.PROFILE, purpose="personalisation"),
        Question(action=Action.SELL, purpose="advertising"),
        Question(action=Action.USE, purpose="security"),
    ]
    cases = [(person, question) for person in range(len(people)) for question in questions]
    rng.shuffle(cases)
    return World("usual", policy, people, cases)


def worst() -> World:
    """200 purposes that use everything a purpose can have, and adults with many choices on each, in two places at once."""
    rng = random.Random(f"{SEED} worst")
    policy = _compiled(msgspec.convert(_large(rng), Policy))
    kinds: list[ConsentKind] = ["grant", "grant", "grant", "acknowledge", "withdraw", "deny"]
    places = ("DE", "FR", "US-CA", "GB", "BR", "IN")

    def choices() -> list[ConsentKind]:
        last: ConsentKind = rng.choice(["grant", "grant", "grant", "withdraw", "object"])
        return [*rng.choices(kinds, k=CHOICES - 1), last]

    people = [
        DataSubjectState(
            jurisdiction=rng.choice(places),
            birth_date="1980-02-29",
            consents={key: _history(rng, policy, key, choices()) for key in policy.purposes},
            relations={kind: Fact("entry", UPDATED, NOW - rng.randrange(20, 150) * DAY) for kind in ("purchase", "inquiry")},
        )
        for _ in range(10)
    ]  # fmt: skip
    cases = [
        (person, _question(rng, purpose, rng.choice([place for place in places if place != state.jurisdiction])))
        for person, state in enumerate(people)
        for _, purpose in rng.sample(sorted(policy.purposes.items()), 60)
    ]
    rng.shuffle(cases)
    return World("worst", policy, people, cases)


def _question(rng: random.Random, purpose: CompiledPurpose, place: str) -> Question:
    action = rng.choice(sorted(purpose.actions))
    return Question(
        action=action, purpose=purpose.key, channel=rng.choice(sorted(purpose.channels)) if action is Action.SEND else None,
        topic=rng.choice(sorted(purpose.topics)), jurisdiction=place, data_categories=("contact", "behaviour"),
        recipient="partner-3", region="DE", supported_obligations=SUPPORTED,
    )  # fmt: skip


def _compiled(policy: Policy | None) -> CompiledPolicy:
    assert policy is not None
    return compile_policy(policy, (), profiles_of(policy), NOW)


def _large(rng: random.Random) -> dict[str, Any]:
    topics = {f"topic-{n}": {"parent": f"topic-{n // 4}"} if n >= 4 else {} for n in range(TOPICS)}
    text = {"en": {"title": "Notice", "body": "Yes."}}
    purposes = {f"purpose-{n:03}": _purpose(rng, n) for n in range(PURPOSES)}
    notices = {f"notice-{n}": {"version": 3, "text": text} for n in range(PURPOSES)}
    markets = ["DE", "FR", "GB", "US", "BR", "IN"]
    return {
        "controller": {"name": "Example"}, "jurisdictions": "2026.11", "markets": markets, "topics": topics,
        "notices": notices, "purposes": purposes,
    }  # fmt: skip


def _purpose(rng: random.Random, number: int) -> dict[str, Any]:
    """Every fourth one profiles for the one before the last three: three others serve each of the rest."""
    serves = {"serves": f"purpose-{number // 4 * 4:03}"} if number % 4 else {}
    activity = {"activity": ("profiling", "personalisation", "analytics")[number % 4 - 1]} if number % 4 else {}
    return serves | activity | {
        "class": "marketing" if number % 4 == 0 else "service",
        "actions": ["send", "use", "retain"] if number % 4 == 0 else ["send", "profile", "train"],
        "basis": {"default": rng.choice(["consent", "legitimate_interest", "opt_out", "soft_opt_in"]), "DE": "consent", "US": "opt_out"},
        "channels": ["email", "sms", "push", "whatsapp", "post"],
        "topics": [f"topic-{n}" for n in range(4)],
        "data": ["contact", "behaviour", "location"], "recipients": [f"partner-{n}" for n in range(10)], "regions": ["EEA", "US"],
        "retention": "P60M", "notice": f"notice-{number}", "relations": {"purchase": "P24M", "inquiry": "P12M"},
        "consent": {"valid_for": "P36M", "minimum_evidence": "E1"},
    }  # fmt: skip


def _history(
    rng: random.Random, policy: CompiledPolicy, key: str, kinds: Sequence[ConsentKind]
) -> tuple[ConsentEvent, ...]:
    """Choices in the last five months, each of the person's own and proved; some of one channel only."""
    events: tuple[ConsentEvent, ...] = ()
    for event in _choices(rng, policy, key, kinds):
        events = insert(events, event)
    return events


def _choices(
    rng: random.Random, policy: CompiledPolicy, key: str, kinds: Sequence[ConsentKind]
) -> Iterator[ConsentEvent]:
    purpose = policy.purposes[key]
    times = sorted(rng.sample(range(NOW - 150 * DAY, NOW - 10 * DAY), len(kinds)))
    for number, (kind, moment) in enumerate(zip(kinds, times, strict=True)):
        narrow = len(kinds) > 2 and bool(purpose.channels) and rng.random() < 0.3
        version = rng.choice((2, 3, 3, 3)) if len(kinds) > 2 else 1
        notice = None if purpose.notice is None else f"{purpose.notice}@{version}"
        yield ConsentEvent(
            entry=f"{key}-{number}", kind=kind, occurred_at=moment, recorded_at=moment, actor="data_subject",
            channels=(rng.choice(sorted(purpose.channels)),) if narrow else (), notice=notice, grade=3, age_of_consent=13,
        )  # fmt: skip
