"""The read rule: may this be done, to this person, now?

`evaluate` is pure and total. Deny overrides permit; nothing that permits is a deny; an error inside a rule is a deny.
Of the steps of the registry this version has system, request, data_subject, scope, objections, basis, address and
obligations; a policy or a question that needs another step is refused before it gets here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import msgspec

from volenti.core.asking import a_page_suffices, locked_until
from volenti.core.consent import ConsentEvent, Standing, live, scopes, settle_live
from volenti.core.data_subject import ENTRY_KINDS, DataSubjectState, Fact, comes_of_age
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose, covers_region, terms_for
from volenti.core.policy.document import (
    Action,
    Addresses,
    Channel,
    Exemption,
    LawfulBasis,
    MessageClass,
    grade_number,
)
from volenti.core.policy.duration import expires_at
from volenti.core.reason import STEPS, Reason, Step, reason
from volenti.core.validity import adult_at, ends_at, places_of

TTL_MS: Mapping[Action, int] = {Action.SEND: 60_000}
"""How long an answer may be reused, by action; every other action 300 s."""
_DEFAULT_TTL_MS = 300_000
MOST_ALTERNATIVES = 8

_CLASS_ORDER = {
    cls: rank
    for rank, cls in enumerate(
        (MessageClass.EMERGENCY, MessageClass.TRANSACTIONAL, MessageClass.SERVICE, MessageClass.MARKETING)
    )
}
"""From what passes most to what is bound most: a message may only be stricter than its purpose."""

# In Python 3.11 each look at a member of an enum is a call, so what every check compares with has a name of its own.
_SEND = Action.SEND
_PROHIBITED = LawfulBasis.PROHIBITED
_SOFT_OPT_IN = LawfulBasis.SOFT_OPT_IN
_MARKETING_EMAIL = (Action.SEND, Channel.EMAIL, MessageClass.MARKETING)

_IGNORES_CHOICES = frozenset((LawfulBasis.CONTRACT, LawfulBasis.LEGAL_OBLIGATION, LawfulBasis.VITAL_INTEREST))
_OUTLASTS_RESTRICTION = frozenset((LawfulBasis.LEGAL_OBLIGATION, LawfulBasis.VITAL_INTEREST))
_ASKS_FIRST = frozenset((LawfulBasis.CONSENT, LawfulBasis.SOFT_OPT_IN))
_SALE = frozenset((Action.SELL, Action.SHARE))
_KEEPS = frozenset((Action.COLLECT, Action.RETAIN))
_BASIS_REASON = {
    LawfulBasis.CONTRACT: "basis.contract",
    LawfulBasis.LEGAL_OBLIGATION: "basis.legal_obligation",
    LawfulBasis.LEGITIMATE_INTEREST: "basis.legitimate_interest",
    LawfulBasis.OPT_OUT: "basis.opt_out_regime",
    LawfulBasis.SOFT_OPT_IN: "basis.soft_opt_in",
    LawfulBasis.VITAL_INTEREST: "basis.vital_interest",
    LawfulBasis.PUBLIC_TASK: "basis.public_task",
}
_ADDRESS_OF: Mapping[Channel, str] = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.VOICE: "phone",
    Channel.WHATSAPP: "phone",
    Channel.PUSH: "device",
}
"""The type of identifier that a channel reaches; the others need no registered address."""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a component wants to do. `jurisdiction` is the caller's knowledge; with the person's own the stricter wins."""

    action: Action
    purpose: str
    channel: Channel | None = None
    topic: str | None = None
    message_class: MessageClass | None = None
    jurisdiction: str | None = None
    data_categories: tuple[str, ...] = ()
    recipient: str | None = None
    region: str | None = None
    supported_obligations: frozenset[str] | None = None  # None: the caller did not say
    every_reason: bool = False  # False: stop at the first step that denies


class Situation(msgspec.Struct, frozen=True):
    """What the shell knows about the ground that an answer stands on. Anything wrong denies, for everybody.

    `policy_until`: when another version of the policy comes into force, as far as that is known.
    """

    restoring: bool = False
    stale: bool = False
    clock_skewed: bool = False
    late: bool = False
    unlogged: bool = False
    policy_until: int | None = None


SOUND = Situation()


class Given(msgspec.Struct, frozen=True):
    """A reason with what it rests on: the ledger event or fact, and when time alone would lift it."""

    reason: Reason
    event: ConsentEvent | Fact | None = None
    retry_at: int | None = None


class Obligation(msgspec.Struct, frozen=True):
    """What the caller must do along with the permitted act."""

    type: str
    properties: dict[str, Any]
    mandatory: bool = True


class Permit(msgspec.Struct, frozen=True, tag="permit"):
    """The act is permitted until `valid_until`, if the obligations are met."""

    reasons: tuple[Given, ...]
    obligations: tuple[Obligation, ...]
    valid_until: int


class Deny(msgspec.Struct, frozen=True, tag="deny"):
    """The act is not permitted. The reasons are the obstacles, by step and number."""

    reasons: tuple[Given, ...]
    valid_until: int

    @property
    def determinate(self) -> bool:
        return self.reasons[0].reason.step != "system"


Decision: TypeAlias = Permit | Deny


class Alternative(msgspec.Struct, frozen=True):
    """The same question with another channel or topic, which would be permitted."""

    channel: Channel | None
    topic: str | None


class Traced(msgspec.Struct, frozen=True):
    """What one step of the evaluation looked at and found. `inputs` are codes, instants and entry ids, never identifiers."""

    step: Step
    outcome: Literal["passed", "denied", "permitted"]
    reasons: tuple[str, ...]
    inputs: dict[str, Any]


def ledger_kind(event: ConsentEvent | Fact) -> str:
    """The kind of the ledger entry that an answer rests on."""
    return event.kind if isinstance(event, Fact) else ENTRY_KINDS[event.kind]


def evaluate(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, now: int, situation: Situation = SOUND
) -> Decision:
    """Answer a question at an instant (milliseconds UTC). `state` is EMPTY for a person nobody knows; never raises."""
    try:
        return _evaluate(policy, state, question, now, situation)
    except Exception:  # noqa: BLE001 - the one place where any error has a meaning: a rule that fails denies
        return Deny((Given(reason("system.evaluation_error")),), now + 1)


def _evaluate(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, now: int, situation: Situation
) -> Decision:
    unsound = [Given(reason(code)) for code in _system(policy, question, situation)]
    if unsound or policy is None:
        return Deny(tuple(unsound), now + 1)
    valid_until = now + TTL_MS.get(question.action, _DEFAULT_TTL_MS)
    if situation.policy_until is not None:
        valid_until = max(min(valid_until, situation.policy_until), now + 1)
    purpose = policy.purposes.get(question.purpose)
    if purpose is None:
        return Deny((Given(reason("request.purpose_unknown")),), valid_until)

    case = _Case(policy, purpose, state, question, now)
    obstacles: list[Given] = []
    for step in _PERSONAL:
        obstacles.extend(step(case))
        if obstacles and not question.every_reason:
            break
    for change in case.changes():
        if now < change < valid_until:
            valid_until = change
    if obstacles:
        if len(obstacles) > 1:
            obstacles.sort(key=lambda given: (STEPS.index(given.reason.step), given.reason.number))
        return Deny(tuple(obstacles), valid_until)
    return Permit((case.permitting(),), case.obligations(), valid_until)


def _system(policy: CompiledPolicy | None, question: Question, situation: Situation) -> Iterator[str]:
    if policy is None and not (situation.stale or situation.late):
        yield "system.policy_unavailable"
    if situation.stale:
        yield "system.state_stale"
    if situation.unlogged:
        yield "system.evaluation_error"
    if situation.late:
        yield "system.deadline_exceeded"
    if policy is not None and (
        policy.suspended.workspace
        or question.purpose in policy.suspended.purposes
        or question.channel in policy.suspended.channels
    ):
        yield "system.suspended"
    if situation.restoring:
        yield "system.restoring"
    if situation.clock_skewed:
        yield "system.clock_skew"


class _Case:
    """One question about one purpose, with what several steps need, computed once."""

    def __init__(
        self,
        policy: CompiledPolicy,
        purpose: CompiledPurpose,
        state: DataSubjectState,
        question: Question,
        now: int,
    ) -> None:
        self.policy, self.purpose, self.state, self.question, self.now = policy, purpose, state, question, now
        self.places = places_of(state, question.jurisdiction)
        marketing = question.message_class is not None and question.message_class is MessageClass.MARKETING
        self.terms = terms_for(purpose, question.action, question.channel, self.places, as_marketing=marketing)
        self.basis = self._basis()
        self.served = policy.purposes.get(purpose.serves) if purpose.serves is not None else None
        self._expiries: dict[str, int | None] = {}
        self.events = self._events()
        self.standing = self._standing()
        self._flaws_found: tuple[Given, ...] | None = None
        self._obligations_found: tuple[Obligation, ...] | None = None
        self._served_by: dict[tuple[str, Action], _Case] = {}

    def _basis(self) -> LawfulBasis:
        """The basis that binds: the stricter of the purpose's and the jurisdiction's, with what minors are owed."""
        basis, sale = self.terms.basis, self.question.action in _SALE
        if self._younger_than(self.terms.minors_prohibited_below):
            return LawfulBasis.PROHIBITED
        if sale and basis is not _PROHIBITED and self._younger_than(self.terms.age_of_sale):
            return LawfulBasis.CONSENT
        return basis

    def _events(self) -> tuple[ConsentEvent, ...]:
        """The person's choices on the purpose; of an exempt purpose without objections, which then count for nothing.

        Marketing, and what serves it, is never exempt: there an objection is absolute (GDPR Art. 21(2) and (3)).
        """
        events = live(self.state.on(self.purpose.key))
        if not self.purpose.exempt or Exemption.OBJECTION not in self.purpose.exempt:
            return events
        served = None if self.served is None else self.served.message_class
        if MessageClass.MARKETING in (self.purpose.message_class, served):
            return events
        return tuple(event for event in events if event.kind != "object")

    def _younger_than(self, years: int | None) -> bool:
        """True if the person is known to be younger. Whose age nobody knows is not treated as a child."""
        born = self.state.birth_date
        return years is not None and bool(born) and self.now < comes_of_age(born, years)

    def _standing(self) -> Standing:
        """The standing that decides.

        Of the channel asked for; without one, a valid grant on any channel, else what covers all channels, and where
        nothing does, a grant that is not valid or a request that waits, so that the answer says so. The refusal of one
        channel is no answer for the others.
        """
        if self.question.channel is not None or not self.events:
            return settle_live(self.events, self.question.channel)
        found = [settle_live(self.events, channel) for channel in scopes(self.events)]
        if len(found) == 1:
            return found[0]
        granted = [standing for standing in found if standing.state == "granted"]
        valid = [standing for standing in granted if not any(self._flaws(standing))]
        if found[0].state == "unknown" and found[0].pending is None:
            waiting = [Standing("unknown", pending=one.pending) for one in found if one.pending is not None]
            return (*valid, *granted, *waiting, found[0])[0]
        return (*valid, found[0])[0]

    # ---- steps: each yields the obstacles that it finds, in the order of their numbers

    def request(self) -> Iterator[Given]:
        purpose, question = self.purpose, self.question
        if question.action not in purpose.actions:
            yield Given(reason("request.action_not_in_purpose"))
        if question.channel is not None and question.channel not in purpose.channels:
            yield Given(reason("request.channel_unknown"))
        relaxed = (
            question.message_class is not None
            and purpose.message_class is not None
            and _CLASS_ORDER[question.message_class] < _CLASS_ORDER[purpose.message_class]
        )
        if relaxed:
            yield Given(reason("request.class_relaxation"))
        if purpose.retired_at_ms is not None and self.now >= purpose.retired_at_ms:
            yield Given(reason("purpose.retired"))
        if purpose.active_from_ms is not None and self.now < purpose.active_from_ms:
            yield Given(reason("purpose.not_yet_active"), retry_at=purpose.active_from_ms)
        if question.topic is not None and question.topic not in (purpose.topics or self.policy.document.topics):
            yield Given(reason("request.topic_unknown"))

    def data_subject(self) -> Iterator[Given]:
        if self.state.restriction is not None and self.basis not in _OUTLASTS_RESTRICTION:
            yield Given(reason("data_subject.processing_restricted"), self.state.restriction)
        if self._consent_binds() and self._younger_than(self.terms.age_of_consent):
            event = self.standing.decided_by
            if (
                self.standing.state == "granted"
                and event is not None
                and not (event.actor == "guardian" or event.of_age)
            ):
                yield Given(reason("data_subject.minor_no_guardian"), event)
            elif self.standing.state == "unknown":
                yield Given(reason("data_subject.minor_no_guardian"))

    def scope(self) -> Iterator[Given]:
        purpose, question = self.purpose, self.question
        if self.basis is _PROHIBITED:
            yield Given(reason("jurisdiction.prohibited"))
        if not purpose.data.issuperset(question.data_categories):
            yield Given(reason("data.category_not_covered"))
        if question.recipient is not None and question.recipient not in purpose.recipients:
            yield Given(reason("data.recipient_not_covered"))
        if question.region is not None and not covers_region(purpose, question.region):
            yield Given(reason("data.region_not_covered"))
        until = self._kept_until()
        if until is not None and self.now >= until:
            yield Given(reason("retention.elapsed"))

    def objections(self) -> Iterator[Given]:
        if self.basis in _IGNORES_CHOICES:
            return
        objection = self._objection()
        if objection is not None:
            yield Given(reason("objection.recorded"), objection)
        elif self.standing.state in ("denied", "withdrawn") and self._sale_opt_out():
            yield Given(reason("optout.sale_share"), self.standing.decided_by)

    def lawful_basis(self) -> Iterator[Given]:
        if self.basis in _IGNORES_CHOICES or self.basis is _PROHIBITED or self._carried_by_a_grant():
            return
        state, event, pending = self.standing.state, self.standing.decided_by, self.standing.pending
        asks = self._consent_binds()
        if asks and pending is not None:
            yield Given(reason("consent.pending_confirmation"), pending)
        elif state in ("denied", "withdrawn") and not self._sale_opt_out():
            yield Given(reason(f"consent.{state}"), event)
        elif asks and state == "granted":
            yield from self.flaws()
        elif asks and state == "unknown":
            elsewhere = any(settle_live(self.events, channel).state == "granted" for channel in scopes(self.events))
            yield Given(reason("consent.scope_mismatch" if elsewhere else "consent.missing"))

    def address(self) -> Iterator[Given]:
        addresses, channel = self.policy.addresses, self.question.channel
        kind = None if channel is None else _ADDRESS_OF.get(channel)
        if kind is None or self.question.action is not _SEND or addresses is Addresses.OPEN:
            return
        registered = [one for one in self.state.identifiers if one.type == kind]
        if not registered:
            yield Given(reason("address.missing"))
        elif addresses is Addresses.VERIFIED and all(one.verified_at is None for one in registered):
            yield Given(reason("address.unverified"))

    def unsupported_obligations(self) -> Iterator[Given]:
        if self.question.supported_obligations is not None and any(self.lacking()):
            yield Given(reason("obligation.unsupported"))

    # ---- what the steps ask

    def _consent_binds(self) -> bool:
        """True if only a consent permits: nothing else stands in for it, as a relation does under soft opt-in."""
        return self.basis in _ASKS_FIRST and self._relation() is None

    def lacking(self) -> Iterator[str]:
        """The types of mandatory obligations that the caller says it cannot perform."""
        supported = self.question.supported_obligations
        if supported is not None:
            yield from (one.type for one in self.obligations() if one.mandatory and one.type not in supported)

    def _objection(self) -> ConsentEvent | Fact | None:
        """The objection (GDPR Art. 21) that binds: to this purpose, or to the one that it serves."""
        if self.standing.state == "objected" or self.served is None:
            return self.standing.decided_by if self.standing.state == "objected" else None
        events = live(self.state.on(self.served.key))
        if not any(event.kind == "object" for event in events):
            return None
        standings = (settle_live(events, channel) for channel in scopes(events))
        return next((one.decided_by for one in standings if one.state == "objected"), None)

    def _carried_by_a_grant(self) -> bool:
        return self.standing.state == "granted" and not self.flaws()

    def _relation(self) -> Fact | None:
        """The relation on which soft opt-in rests at this instant: the one that lasts longest."""
        if self.basis is not _SOFT_OPT_IN:
            return None
        lasting = [(until, fact) for fact, until in self._relations() if until is None or self.now < until]
        return max(lasting, key=lambda one: (one[0] is None, one[0] or 0))[1] if lasting else None

    def _relations(self) -> Iterator[tuple[Fact, int | None]]:
        """Relations that qualify here, each with the instant at which it no longer does."""
        for kind, rule in self.terms.relations.items():
            fact = self.state.relations.get(kind)
            if fact is None or (rule.collected_since_ms is not None and fact.occurred_at < rule.collected_since_ms):
                continue
            yield fact, None if rule.max_age is None else expires_at(fact.occurred_at, rule.max_age)

    def _kept_until(self) -> int | None:
        """When the retention of the purpose's data ends: so long after the person's last grant or relation, if any.

        A grant that was declared void counts too: the data came with it, and voiding it must not let them be kept.
        """
        if self.purpose.retention is None:
            return None
        events = self.state.on(self.purpose.key)
        granted = [event.occurred_at for event in events if event.kind in ("grant", "confirm", "renew")]
        related = [fact.occurred_at for fact in self.state.relations.values()]
        latest = max((*granted, *related), default=None)
        return None if latest is None else expires_at(latest, self.purpose.retention)

    # ---- what the answer carries

    def permitting(self) -> Given:
        """The reason of a permit: a valid grant whatever basis would hold too, else the basis that binds."""
        if self._carried_by_a_grant():
            return Given(reason("consent.granted"), self.standing.decided_by)
        relation = self._relation()
        assert (relation is None) is (self.basis is not LawfulBasis.SOFT_OPT_IN)
        return Given(reason(_BASIS_REASON[self.basis]), relation)

    def carries(self) -> bool:
        """True if the basis permits where its own step finds no obstacle: what objections and prohibitions deny, other steps say."""
        objected = self.standing.state == "objected" and self.basis not in _IGNORES_CHOICES
        return self.basis is not LawfulBasis.PROHIBITED and not objected

    def obligations(self) -> tuple[Obligation, ...]:
        if self._obligations_found is None:
            self._obligations_found = tuple(self._obligations())
        return self._obligations_found

    def _obligations(self) -> Iterator[Obligation]:
        purpose, question = self.purpose, self.question
        message_class = question.message_class or purpose.message_class
        if (question.action, question.channel, message_class) == _MARKETING_EMAIL:
            yield Obligation("include_unsubscribe", {"text_key": "unsubscribe"})
        if purpose.served_by:
            if question.action is not Action.PROFILE and self._serving_denied(Action.PROFILE):
                yield Obligation("no_profiling", {})
            if question.action is not Action.TRAIN and self._serving_denied(Action.TRAIN):
                yield Obligation("exclude_from_training", {})
        if self.terms.human_review and question.action is Action.AUTOMATE:
            yield Obligation("no_automated_decision", {"human_review": True})
        if question.action in _SALE and purpose.recipients and question.recipient is None:
            yield Obligation("restrict_recipients", {"allow": sorted(purpose.recipients)})
        until = self._kept_until()
        if until is not None and question.action in _KEEPS:
            yield Obligation("delete_by", {"at": until})
        if self.terms.show_notice and purpose.notice is not None and not self._told():
            yield Obligation(
                "show_notice", {"notice": f"{purpose.notice}@{self.policy.notices[purpose.notice].version}"}
            )
        if purpose.sensitive:
            yield Obligation("log_access", {})

    def _serving(self, key: str, action: Action) -> _Case:
        """The case of a purpose that serves this one."""
        case = self._served_by.get((key, action))
        if case is None:
            asked = Question(action=action, purpose=key, jurisdiction=self.question.jurisdiction)
            case = _Case(self.policy, self.policy.purposes[key], self.state, asked, self.now)
            self._served_by[key, action] = case
        return case

    def _serving_denied(self, action: Action) -> bool:
        """True if a purpose that serves this one has the action, and it is denied for this person or switched off."""
        return any(
            key in self.policy.suspended.purposes
            or any(given for step in _CHOICES for given in step(self._serving(key, action)))
            for key in self.purpose.served_by
            if action in self.policy.purposes[key].actions
        )

    def _told(self) -> bool:
        """True if the person saw, or agreed to, a version of the notice that still stands."""
        return any(
            event.kind in ("acknowledge", "grant", "confirm", "renew") and not self._outdated(event)
            for event in self.events
            if event.notice is not None
        )

    def inputs(self, step: Step) -> dict[str, Any]:
        """What a step looks at, in codes, instants and entry ids: for the trace of an explanation."""
        decided, pending = self.standing.decided_by, self.standing.pending
        match step:
            case "request":
                return {"purpose": self.purpose.key, "action": self.question.action, "channel": self.question.channel}
            case "data_subject":
                restriction = None if self.state.restriction is None else self.state.restriction.entry
                return {"restriction": restriction, "age_of_consent": self.terms.age_of_consent}
            case "scope":
                return {"jurisdictions": list(self.places), "kept_until": self._kept_until()}
            case "objections":
                return {"standing": self.standing.state, "serves": self.purpose.serves}
            case "basis":
                return {
                    "binding": self.basis,
                    "standing": self.standing.state,
                    "decided_by": None if decided is None else decided.entry,
                    "pending": None if pending is None else pending.entry,
                    "expires_at": None if decided is None else self._expiry(decided),
                    "required_notice_version": self.purpose.required_notice_version,
                    "minimum_evidence": self.purpose.minimum_evidence,
                }
            case "address":
                return {"addresses": self.policy.addresses}
            case _:
                return {"obligations": [obligation.type for obligation in self.obligations()]}

    def changes(self) -> list[int]:
        """The instants at which time alone may change the answer."""
        found = self._own_changes()
        for key in self.purpose.served_by:
            found += self._serving(key, Action.PROFILE)._own_changes()
        return found

    def _own_changes(self) -> list[int]:
        found = [self.purpose.active_from_ms, self.purpose.retired_at_ms, self.policy.changes_at_ms]
        for event in self.events:
            if event.kind in ("grant", "confirm", "renew"):
                found += (event.valid_from, self._expiry(event))
        if self.terms.relations:
            found += [until for _, until in self._relations()]
        if self.purpose.retention is not None:
            found.append(self._kept_until())
        if self.state.birth_date:
            ages = (self.terms.age_of_consent, self.terms.age_of_sale, self.terms.minors_prohibited_below)
            found += [comes_of_age(self.state.birth_date, age) for age in ages if age is not None]
        return [instant for instant in found if instant is not None]

    def _expiry(self, event: ConsentEvent) -> int | None:
        if event.entry not in self._expiries:
            self._expiries[event.entry] = self._ends_at(event)
        return self._expiries[event.entry]

    def _ends_at(self, event: ConsentEvent) -> int | None:
        return ends_at(event, self.purpose, self.terms, self._adult_at() if event.actor == "guardian" else None)

    def _adult_at(self) -> int | None:
        """When a guardian's power ends: in the first of the places that bind. Elsewhere the person may still be a minor."""
        purpose, question = self.purpose, self.question
        in_each = [terms_for(purpose, question.action, question.channel, (place,)) for place in self.places]
        ages = [terms.age_of_consent for terms in in_each or [self.terms] if terms.age_of_consent is not None]
        return adult_at(self.state, min(ages, default=None))

    def flaws(self) -> tuple[Given, ...]:
        """Why the grant that decides does not carry the question; empty if it does."""
        if self._flaws_found is None:
            self._flaws_found = tuple(self._flaws(self.standing))
        return self._flaws_found

    def _flaws(self, standing: Standing) -> Iterator[Given]:
        """Why a grant does not carry the question at this instant, by number: expired, outdated, badly proved, not yet in effect."""
        event = standing.decided_by
        assert event is not None
        expiry = self._expiry(event)
        if expiry is not None and self.now >= expiry:
            yield Given(reason("consent.expired"), event)
        if self._outdated(event):
            yield Given(reason("consent.notice_outdated"), event)
        if event.grade < grade_number(self.purpose.minimum_evidence):
            yield Given(reason("consent.evidence_invalid"), event)
        if event.valid_from is not None and self.now < event.valid_from:
            yield Given(reason("consent.not_yet_effective"), event, event.valid_from)

    def _outdated(self, event: ConsentEvent) -> bool:
        """True if the notice of a grant has changed materially since, or was extended by what the question names."""
        if event.notice is None or self.purpose.required_notice_version is None:
            return False
        notice, version = _notice_version(event.notice)
        if notice != self.purpose.notice or version < self.purpose.required_notice_version:
            return True
        return any(
            version < extension.version
            and (
                self.question.recipient in extension.recipients
                or not extension.data.isdisjoint(self.question.data_categories)
            )
            for extension in self.purpose.extensions
        )

    def _sale_opt_out(self) -> bool:
        return self.basis is LawfulBasis.OPT_OUT and self.question.action in _SALE


@lru_cache(maxsize=4096)
def _notice_version(name: str) -> tuple[str, int]:
    """The parts of "newsletter@3"."""
    notice, _, version = name.rpartition("@")
    return notice, int(version)


_CHOICES: Final[tuple[Callable[[_Case], Iterator[Given]], ...]] = (
    _Case.request,
    _Case.data_subject,
    _Case.scope,
    _Case.objections,
    _Case.lawful_basis,
    _Case.address,
)
"""The steps after `system`, in their order."""
_PERSONAL: Final = (*_CHOICES, _Case.unsupported_obligations)
"""And the last: the obligations, which may depend on what other purposes are permitted."""


def explain(
    policy: CompiledPolicy, state: DataSubjectState, question: Question, now: int, situation: Situation = SOUND
) -> tuple[Traced, ...]:
    """Every step of the evaluation in its order, whatever an earlier one found. Raises what a rule raises."""
    broken = tuple(_system(policy, question, situation))
    flaws = [name for name in ("restoring", "stale", "clock_skewed", "late") if getattr(situation, name)]
    traced = [Traced("system", "denied" if broken else "passed", broken, {"unsound": flaws})]
    purpose = policy.purposes.get(question.purpose)
    if purpose is None:
        unknown = Traced("request", "denied", ("request.purpose_unknown",), {"purpose": question.purpose})
        return (*traced, unknown)
    case = _Case(policy, purpose, state, question, now)
    for step, rule in zip(_STEP_NAMES, _PERSONAL, strict=True):
        codes = tuple(given.reason.code for given in rule(case))
        permitting = (case.permitting().reason.code,) if step == "basis" and not codes and case.carries() else ()
        outcome: Literal["passed", "denied", "permitted"] = (
            "denied" if codes else "permitted" if permitting else "passed"
        )
        traced.append(Traced(step, outcome, codes or permitting, case.inputs(step)))
    return tuple(traced)


_STEP_NAMES: Final[tuple[Step, ...]] = (
    "request",
    "data_subject",
    "scope",
    "objections",
    "basis",
    "address",
    "obligations",
)


def alternatives(
    policy: CompiledPolicy, state: DataSubjectState, question: Question, now: int, situation: Situation = SOUND
) -> tuple[Alternative, ...]:
    """What else would be permitted: the same `send` with one of channel and topic changed, at most eight."""
    purpose = policy.purposes.get(question.purpose)
    if question.action is not Action.SEND or purpose is None:
        return ()
    others = [msgspec.structs.replace(question, channel=channel) for channel in sorted(purpose.channels)]
    if question.topic is not None:
        topics = sorted(purpose.topics or policy.document.topics)
        others += [msgspec.structs.replace(question, topic=topic) for topic in topics]
    permitted = (one for one in others if one != question and _permits(evaluate(policy, state, one, now, situation)))
    return tuple(Alternative(one.channel, one.topic) for one in islice(permitted, MOST_ALTERNATIVES))


def _permits(decision: Decision) -> bool:
    return isinstance(decision, Permit)


def remedies(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, decision: Decision, now: int
) -> tuple[dict[str, Any], ...]:
    """What would change a denial, machine-readable, in the order of its reasons; a reason may have none."""
    if isinstance(decision, Permit):
        return ()
    return tuple(remedy for given in decision.reasons for remedy in _remedies(policy, state, question, given, now))


def requestable(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, decision: Decision, now: int
) -> bool:
    """True if a page may ask the person for the consent that a denial lacks: they can lift it, and may be asked now."""
    if policy is None or isinstance(decision, Permit) or decision.reasons[0].reason.remedy != "ask_consent":
        return False
    purpose = policy.purposes[question.purpose]
    return a_page_suffices(purpose) and locked_until(policy, state, (purpose.key,), now) is None


def _remedies(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, given: Given, now: int
) -> Iterator[dict[str, Any]]:
    remedy = given.reason.remedy
    if remedy is None:
        return
    purpose = policy.purposes.get(question.purpose) if policy is not None else None
    match remedy:
        case "ask_consent" if policy is not None and purpose is not None:
            locked = locked_until(policy, state, (purpose.key,), now)
            yield {"type": remedy, "purpose": purpose.key, "notice": purpose.notice} | (
                {} if locked is None else {"not_before": locked}
            )
        case "confirm_pending":
            yield {"type": remedy, "purpose": question.purpose}
        case "collect_address" | "verify_address":
            yield {"type": remedy, "channel": question.channel}
        case "wait_until":
            yield {"type": remedy, "at": given.retry_at}
        case "narrow_request" if purpose is not None:
            yield {"type": remedy, "drop": _beyond(purpose, question, given.reason)}
        case "support_obligation" if policy is not None and purpose is not None:
            lacking = _Case(policy, purpose, state, question, now).lacking()
            yield from ({"type": remedy, "obligation": kind} for kind in lacking)
        case "retry":
            yield {"type": remedy, "after_ms": 1000}
        case _:
            yield {"type": remedy}


def _beyond(purpose: CompiledPurpose, question: Question, obstacle: Reason) -> Sequence[str | None]:
    """What of a question its purpose does not cover."""
    match obstacle.code:
        case "data.category_not_covered":
            return sorted(set(question.data_categories) - purpose.data)
        case "data.recipient_not_covered":
            return [question.recipient]
        case _:
            return [question.region]
