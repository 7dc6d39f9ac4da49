"""What a workspace should do, as a small reference written from the specification: the oracle of the stateful machine.

Imports nothing of the product, so that a mistake is made once, not twice. Where the product decides incrementally this
says the rule: a grant is compared with every refusal that stands, a policy is the document as it was sent. A new kind of
event is a column of TRANSITIONS, a new ground to refuse a check a function of LAYERS, a new rule for a write a line of
`Workspace.faults`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

E0, E1, E2, E3, E4 = range(5)

TRANSITIONS = {
    #             grant                deny                withdraw                object
    "unknown": {"grant": "granted", "deny": "denied", "withdraw": "withdrawn", "object": "objected"},
    "granted": {"grant": "granted", "deny": "withdrawn", "withdraw": "withdrawn", "object": "objected"},
    "denied": {"grant": "granted", "deny": "denied", "withdraw": "denied", "object": "objected"},
    "withdrawn": {"grant": "granted", "deny": "withdrawn", "withdraw": "withdrawn", "object": "objected"},
    "objected": {"grant": "granted", "deny": "objected", "withdraw": "objected", "object": "objected"},
}
"""The consent state machine; a grant only where it may lift what stands."""
PERMISSIVE = {"grant"}
ENTRY_KINDS = {"grant": "granted", "deny": "denied", "withdraw": "withdrawn", "object": "objected"}
UPDATED = "data_subject.updated"
STRICTEST_FIRST = ["consent", "legitimate_interest", "opt_out", "contract", "legal_obligation"]
IGNORES_CHOICES = {"contract", "legal_obligation"}
BASIS_REASONS = {"opt_out": "basis.opt_out_regime"}

BACKDATED = 30 * DAY
"""An older grant counts as unproved."""
AHEAD = 5 * MINUTE
SHOWN = SECOND
OFFER_LIFE = HOUR


@dataclass(frozen=True)
class Choice:
    """One event of a request. `at` None: now."""

    kind: str
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None
    at: int | None = None
    valid_from: int | None = None
    valid_until: int | None = None


@dataclass(frozen=True)
class Offer:
    """What was shown, and the token that says so."""

    token: str = field(repr=False)
    issued_at: int
    purposes: frozenset[str]
    notices: frozenset[str]
    preset: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Request:
    """A request to record choices and facts about one person."""

    person: str
    choices: tuple[Choice, ...] = ()
    actor: str = "data_subject"
    offer: Offer | None = None
    described: bool = True
    """It names method and surface."""
    confirmed_at: int | None = None
    authenticated_at: int | None = None
    email: str | None = None
    jurisdiction: str | None = None
    by_email: bool = False
    """Names the person by the address alone."""


@dataclass(frozen=True)
class Event:
    """A recorded choice."""

    index: int
    choice: Choice
    occurred_at: int
    actor: str
    grade: int
    minimum: int
    """The grade that the policy asked when it was recorded."""
    proved_at: int | None

    @property
    def permissive(self) -> bool:
        return self.choice.kind in PERMISSIVE

    def covers(self, channel: str | None) -> bool:
        return not self.choice.channels or channel in self.choice.channels

    def lifts(self, refusal: Event) -> bool:
        """The re-permission guard."""
        if self.occurred_at <= refusal.occurred_at or self.grade < max(E2, self.minimum):
            return False
        if self.actor in ("operator", "import"):
            return self.grade >= E3 and self.proved_at is not None and self.proved_at > refusal.occurred_at
        return self.actor in ("data_subject", "guardian")


@dataclass(frozen=True)
class Standing:
    """What the events that cover a channel come to."""

    state: str = "unknown"
    by: Event | None = None
    refusals: tuple[Event, ...] = ()
    """Those that a grant would have to lift, all of them."""


def fold(events: list[Event], channel: str | None) -> Standing:
    """The standing of a channel; None stands for what covers every channel."""
    standing = Standing()
    order = sorted(events, key=lambda event: (event.occurred_at, not event.permissive, event.index))
    for event in (event for event in order if event.covers(channel)):
        after = TRANSITIONS[standing.state][event.choice.kind]
        if not event.permissive:
            by = event if after != standing.state else standing.by
            standing = Standing(after, by, (*standing.refusals, event))
        elif all(event.lifts(refusal) for refusal in standing.refusals):
            standing = Standing(after, event)
    return standing


@dataclass
class Person:
    """What is on record about one person."""

    jurisdiction: str | None = None
    emails: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)

    def on(self, purpose: str) -> list[Event]:
        return [event for event in self.events if event.choice.purpose == purpose]

    def scopes(self, purpose: str) -> list[str | None]:
        named = {channel for event in self.on(purpose) for channel in event.choice.channels}
        return [None, *sorted(named)]

    def in_force(self, event: Event) -> bool:
        """What the event asks for holds: a grant decides a channel, a restriction leaves none of its channels granted."""
        purpose = event.choice.purpose
        found = [fold(self.on(purpose), channel) for channel in event.choice.channels or self.scopes(purpose)]
        if event.permissive:
            return any(standing.by is event for standing in found)
        return all(standing.state != "granted" for standing in found)


@dataclass(frozen=True)
class Refused:
    """Nothing is recorded; the answer names one of these kinds of problem."""

    kinds: frozenset[str]


@dataclass(frozen=True)
class Accepted:
    """The entries stand at `index` and after: their kinds, and whether each is in force."""

    index: int
    entries: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Question:
    person: str
    purpose: str
    action: str
    channel: str | None = None
    jurisdiction: str | None = None


@dataclass(frozen=True)
class Answer:
    """The decision, and the reasons of which one is named first."""

    decision: str
    reasons: frozenset[str]


@dataclass
class Workspace:
    """All that one workspace's answers depend on."""

    policy: dict[str, Any]
    """The document in force, as it was sent."""
    size: int
    """Entries in the ledger."""
    notices: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Every published version ("newsletter@2"): when, and whether the change was material."""
    people: dict[str, Person] = field(default_factory=dict)
    used_offers: set[str] = field(default_factory=set)

    def fork(self) -> Workspace:
        """A copy to try something on."""
        return copy.deepcopy(self)

    # ---- the policy

    def publish(self, document: dict[str, Any], now: int) -> bool:
        """Publish a document; False if it is in force already."""
        if document == self.policy:
            return False
        self.policy = document
        self.size += 1
        for key, notice in document["notices"].items():
            self.notices.setdefault(f"{key}@{notice['version']}", (now, notice.get("change", "material")))
        return True

    def versions(self, notice: str) -> list[int]:
        return sorted(int(name.partition("@")[2]) for name in self.notices if name.partition("@")[0] == notice)

    def required_version(self, notice: str) -> int:
        """Grants to older words are outdated: the newest material change counts, and the first words there ever were."""
        versions = self.versions(notice)
        return max(one for one in versions if one == versions[0] or self.notices[f"{notice}@{one}"][1] == "material")

    def basis(self, purpose: str, places: set[str | None]) -> str:
        """The strictest of all places; nobody knows where somebody is: the strictest of the markets."""
        rows: dict[str, str] = self.policy["purposes"][purpose]["basis"]
        known = {place for place in places if place} or set(self.policy["markets"]) or {"default"}
        return min((rows.get(place, rows["default"]) for place in known), key=STRICTEST_FIRST.index)

    # ---- writes

    def record(self, request: Request, now: int) -> Accepted | Refused:
        """Record a request, together or not at all."""
        kinds = self._refusal(request, now)
        if kinds:
            return Refused(frozenset(kinds))
        person = self.people.get(request.person, Person())
        changed = request.person not in self.people
        if request.email is not None and self._owner(request.email) is None:
            person.emails.add(request.email)
            changed = True
        if request.jurisdiction is not None and request.jurisdiction != person.jurisdiction:
            person.jurisdiction, changed = request.jurisdiction, True
        self.people[request.person] = person
        first = self.size
        entries = self._restrict_owner(request, now)
        self.size += changed
        entries += [(UPDATED, True)] * changed
        events = self._events(request.choices, request, now, person)
        if request.offer is not None and self.size > first and _grants(request):
            self.used_offers.add(request.offer.token)
        entries += [(f"consent.{ENTRY_KINDS[event.choice.kind]}", person.in_force(event)) for event in events]
        return Accepted(first, tuple(entries))

    def _restrict_owner(self, request: Request, now: int) -> list[tuple[str, bool]]:
        """A restriction that names somebody else's address is theirs as well."""
        owner = self._owner(request.email) if request.email is not None else None
        if owner in (None, request.person):
            return []
        restricted = self.people[owner]
        events = self._events(request.choices, request, now, restricted)
        return [(f"consent.{ENTRY_KINDS[event.choice.kind]}", restricted.in_force(event)) for event in events]

    def _events(self, choices: tuple[Choice, ...], request: Request, now: int, person: Person) -> list[Event]:
        """Add the choices to what is on record about a person; gives them as they were recorded."""
        events = []
        for choice in choices:
            events.append(self._event(choice, request, now, self.size, person))
            person.events.append(events[-1])
            self.size += 1
        return events

    def _owner(self, email: str) -> str | None:
        return next((name for name, person in self.people.items() if email in person.emails), None)

    def _refusal(self, request: Request, now: int) -> set[str]:
        """Whatever is wrong, of which the answer names one."""
        wrong: set[str] = set()
        owner = self._owner(request.email) if request.email is not None else None
        if owner not in (None, request.person) and (_grants(request) or not request.choices):
            wrong.add("identifier_taken")
        if request.offer is not None and _grants(request):
            if now // SECOND >= request.offer.issued_at // SECOND + OFFER_LIFE // SECOND:
                wrong.add("offer_expired")
            if request.offer.token in self.used_offers:
                wrong.add("offer_invalid")
        before = Person(events=list(self.people.get(request.person, Person()).events))
        for position, choice in enumerate(request.choices):
            faults = set(self.faults(choice, request, now, before))
            if faults:
                return wrong | faults
            before.events.append(self._event(choice, request, now, self.size + position, before))
        return wrong

    def faults(self, choice: Choice, request: Request, now: int, before: Person) -> Iterator[str]:
        """What is wrong with one choice. A restriction is refused for nothing but a purpose that there never was."""
        purpose = self.policy["purposes"].get(choice.purpose)
        if purpose is None:
            yield "purpose_unknown"
            return
        if choice.kind not in PERMISSIVE:
            return
        at = now if choice.at is None else choice.at
        notice = None if choice.notice is None else self.notices.get(choice.notice)
        if request.actor == "system":
            yield "not_affirmative"
        if request.actor == "guardian":  # nobody here has one on record
            yield "guardian_unknown"
        if self.retired(choice.purpose, now):
            yield "purpose_retired"
        if not set(choice.channels) <= set(purpose.get("channels", ())):
            yield "channel_unknown"
        acts = [act for act in (request.confirmed_at, request.authenticated_at) if act is not None]
        if any(one > now + AHEAD for one in (at, *acts)):
            yield "dated_ahead"
        if choice.notice is None:
            if request.actor != "import":
                yield "notice_required"
        elif notice is None or choice.notice.partition("@")[0] != purpose.get("notice"):
            yield "notice_unknown"
        elif notice[0] > min(at, now):
            yield "notice_not_published_then"
        if choice.valid_until is not None and choice.valid_until <= max(choice.valid_from or 0, min(at, now)):
            yield "validity_invalid"
        if request.offer is not None:
            if choice.purpose in request.offer.preset:
                yield "not_affirmative"
            if choice.purpose not in request.offer.purposes or choice.notice not in request.offer.notices:
                yield "offer_invalid"
        if self._guarded(self._event(choice, request, now, self.size, before), before):
            yield "resubscribe_requires_data_subject_act"

    def _guarded(self, grant: Event, person: Person) -> bool:
        """A refusal stands where the grant would, and is not lifted. One that is dated later or equally supersedes it instead."""
        purpose = grant.choice.purpose
        earlier = [event for event in person.on(purpose) if event.occurred_at < grant.occurred_at]
        return any(
            not grant.lifts(refusal)
            for channel in grant.choice.channels or person.scopes(purpose)
            for refusal in fold(earlier, channel).refusals
        )

    def _event(self, choice: Choice, request: Request, now: int, index: int, person: Person) -> Event:
        occurred = min(now, now if choice.at is None else choice.at)
        terms = self.policy["purposes"][choice.purpose].get("consent", {})
        telling = (request.confirmed_at, None if request.actor == "import" else request.authenticated_at)
        acts = [at for at in telling if at is not None]
        before = Person(events=[event for event in person.on(choice.purpose) if event.occurred_at <= occurred])
        confirmed = request.confirmed_at is not None and all(
            refusal.occurred_at < request.confirmed_at
            for channel in choice.channels or before.scopes(choice.purpose)
            for refusal in fold(before.events, channel).refusals
        )
        return Event(
            index=index,
            choice=choice,
            occurred_at=occurred,
            actor=request.actor,
            grade=_grade(request, occurred, now, confirmed),
            minimum=int(terms.get("minimum_evidence", "E0")[1]),
            proved_at=max(acts, default=None),
        )

    # ---- checks

    def boundaries(self, now: int) -> list[int]:
        """The instants to come at which time alone may change an answer."""
        found: set[int] = set()
        for event in (event for person in self.people.values() for event in person.events if event.permissive):
            terms = self.policy["purposes"][event.choice.purpose].get("consent", {})
            found |= {at for at in (event.choice.valid_from, event.choice.valid_until) if at is not None}
            found |= {event.occurred_at + days(terms["valid_for"])} if "valid_for" in terms else set()
        found |= {instant(one["retired_at"]) for one in self.policy["purposes"].values() if "retired_at" in one}
        return sorted(at for at in found if at > now)

    def standings(self, person: Person, now: int) -> set[tuple[str, str, str]]:
        """How a person's choices stand: purpose, channel (`*`: all others) and state; a grant that has ended is expired."""
        found = set()
        for purpose in {event.choice.purpose for event in person.events}:
            for channel in person.scopes(purpose):
                standing = fold(person.on(purpose), channel)
                ended = standing.state == "granted" and self.ended(standing, purpose, now)
                found.add((purpose, channel or "*", "expired" if ended else standing.state))
        return {one for one in found if one[2] != "unknown"}

    def ended(self, standing: Standing, purpose: str, now: int) -> bool:
        assert standing.by is not None
        terms = self.policy["purposes"].get(purpose, {}).get("consent", {})
        ends = [end for end in (standing.by.choice.valid_until,) if end is not None]
        if "valid_for" in terms:
            ends.append(standing.by.occurred_at + days(terms["valid_for"]))
        return any(now >= end for end in ends)

    def retired(self, purpose: str, now: int) -> bool:
        known = self.policy["purposes"][purpose]
        return "retired_at" in known and now >= instant(known["retired_at"])

    def decide(self, question: Question, now: int) -> Answer:
        """Deny where a layer denies, by the first one; else permit by a valid grant, or by the basis that holds without."""
        case = _Case(self, question, now)
        if case.purpose is None:
            return Answer("deny", frozenset({"request.purpose_unknown"}))
        for layer in LAYERS:
            if reasons := frozenset(layer(case)):
                return Answer("deny", reasons)
        granted = case.standing.state == "granted" and not case.flaws(case.standing)
        return Answer("permit", frozenset({"consent.granted" if granted else case.permitting_basis}))


def _grants(request: Request) -> bool:
    return any(choice.kind in PERMISSIVE for choice in request.choices)


def _grade(request: Request, occurred: int, now: int, confirmed: bool) -> int:
    """`confirmed`: later than every refusal that stands."""
    authenticated = request.authenticated_at is not None
    if now - occurred >= BACKDATED:
        return E0
    if request.actor == "import":
        return E3 if confirmed else E0
    if request.offer is None:
        return E1 if request.described else E0
    if occurred - request.offer.issued_at < SHOWN:
        return E1
    return E2 + confirmed + authenticated


class _Case:
    """One question with what several layers need."""

    def __init__(self, workspace: Workspace, question: Question, now: int) -> None:
        self.workspace, self.question, self.now = workspace, question, now
        self.purpose = workspace.policy["purposes"].get(question.purpose)
        self.person = workspace.people.get(question.person, Person())
        if self.purpose is None:
            return
        self.basis = workspace.basis(question.purpose, {self.person.jurisdiction, question.jurisdiction})
        self.events = self.person.on(question.purpose)
        self.scopes = self.person.scopes(question.purpose)
        self.standing = self._standing()

    @property
    def permitting_basis(self) -> str:
        return BASIS_REASONS.get(self.basis, f"basis.{self.basis}")

    def _standing(self) -> Standing:
        if self.question.channel is not None:
            return fold(self.events, self.question.channel)
        found = [fold(self.events, channel) for channel in self.scopes]
        granted = [standing for standing in found if standing.state == "granted"]
        valid = [standing for standing in granted if not self.flaws(standing)]
        everywhere = found[0]
        return next(iter([*valid, *(granted if everywhere.state == "unknown" else []), everywhere]))

    def flaws(self, standing: Standing) -> set[str]:
        """Why a grant does not count at this instant."""
        assert standing.by is not None
        assert self.purpose is not None
        event, terms = standing.by, self.purpose.get("consent", {})
        found = set()
        if self.workspace.ended(standing, self.question.purpose, self.now):
            found.add("consent.expired")
        if event.choice.notice is not None and self.purpose.get("notice") is not None:
            notice, _, version = event.choice.notice.partition("@")
            if int(version) < self.workspace.required_version(notice):
                found.add("consent.notice_outdated")
        if event.grade < int(terms.get("minimum_evidence", "E0")[1]):
            found.add("consent.evidence_invalid")
        if event.choice.valid_from is not None and self.now < event.choice.valid_from:
            found.add("consent.not_yet_effective")
        return found


def _unfit(case: _Case) -> Iterator[str]:
    assert case.purpose is not None
    if case.question.action not in case.purpose["actions"]:
        yield "request.action_not_in_purpose"
    if case.question.channel is not None and case.question.channel not in case.purpose.get("channels", ()):
        yield "request.channel_unknown"
    if case.workspace.retired(case.question.purpose, case.now):
        yield "purpose.retired"


def _opted_out_of_sale(case: _Case) -> bool:
    refused = case.standing.state in ("denied", "withdrawn")
    return refused and case.basis == "opt_out" and case.question.action in ("sell", "share")


def _objected(case: _Case) -> Iterator[str]:
    assert case.purpose is not None
    if case.basis not in IGNORES_CHOICES or case.purpose.get("class") == "marketing":
        if case.standing.state == "objected":
            yield "objection.recorded"
        elif _opted_out_of_sale(case):
            yield "optout.sale_share"


def _not_consented(case: _Case) -> Iterator[str]:
    state = case.standing.state
    if case.basis not in IGNORES_CHOICES and state in ("denied", "withdrawn"):
        yield f"consent.{state}"
    elif case.basis == "consent" and state == "unknown":
        elsewhere = any(fold(case.events, channel).state == "granted" for channel in case.scopes)
        yield "consent.scope_mismatch" if elsewhere else "consent.missing"
    elif case.basis == "consent" and state == "granted":
        yield from case.flaws(case.standing)


LAYERS = (_unfit, _objected, _not_consented)
"""Each yields why a question is denied; the first layer that yields decides, and its reasons are equals here."""


def days(duration: str) -> int:
    """The milliseconds of a duration in days ("P30D"): the only form that the machine publishes."""
    assert duration[0] == "P"
    assert duration[-1] == "D"
    return int(duration[1:-1]) * DAY


def instant(text: str) -> int:
    """Milliseconds of an RFC 3339 instant in UTC."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
