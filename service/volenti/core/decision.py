"""The read rule: may this be done, to this person, now?

`evaluate` is pure and total. Deny overrides permit; nothing that permits is a deny; an error inside a rule is a deny.
Of the steps of the registry this version has system, request, data_subject, scope, objections, basis, address and
obligations; a policy or a question that needs another step is refused before it gets here.

What follows from the policy and the question alone (`Premises`), or from the person's choices alone (`Choices`, the ends
of grants), is worked out once and remembered with the policy or the state. What it comes to now never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import msgspec

from volenti.core.asking import a_page_suffices, locked_until
from volenti.core.consent import PERMITTING, Choices, ConsentEvent, Standing, choices_of
from volenti.core.data_subject import ENTRY_KINDS, DataSubjectState, Fact, comes_of_age
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose, covers_region
from volenti.core.policy.document import Action, Addresses, Channel, LawfulBasis, MessageClass
from volenti.core.policy.duration import Duration, expires_at
from volenti.core.policy.premises import Premises, remember
from volenti.core.reason import Reason, Step, reason
from volenti.core.validity import adult_at, ends_at

TTL_MS: Mapping[Action, int] = {Action.SEND: 60_000}
"""How long an answer may be reused, by action; every other action 300 s."""
_DEFAULT_TTL_MS = 300_000
MOST_ALTERNATIVES = 8
MOST_ENDS = 64
"""So many ends of grants are kept with a person's choices on one purpose; when there are more, they are all forgotten."""

# In Python 3.11 each look at a member of an enum is a call, so what every check compares with has a name of its own.
_PROFILE = Action.PROFILE
_TRAIN = Action.TRAIN
_PROHIBITED = LawfulBasis.PROHIBITED
_SOFT_OPT_IN = LawfulBasis.SOFT_OPT_IN
_MARKETING_EMAIL = (Action.SEND, Channel.EMAIL, MessageClass.MARKETING)

_IGNORES_CHOICES = frozenset((LawfulBasis.CONTRACT, LawfulBasis.LEGAL_OBLIGATION, LawfulBasis.VITAL_INTEREST))
_OUTLASTS_RESTRICTION = frozenset((LawfulBasis.LEGAL_OBLIGATION, LawfulBasis.VITAL_INTEREST))
_ASKS_FIRST = frozenset((LawfulBasis.CONSENT, LawfulBasis.SOFT_OPT_IN))
_SALE = frozenset((Action.SELL, Action.SHARE))
_LEARNS = frozenset((Action.PROFILE, Action.TRAIN))
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


class NamedAddress(msgspec.Struct, frozen=True):
    """What is known of the address that a question names the person by: its type, and whether it is verified."""

    type: str
    verified: bool


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a component wants to do. `jurisdiction` is the caller's knowledge; with the person's own the stricter wins.

    `address` is given where the policy asks for verified addresses, and the question names the person by one.
    """

    action: Action
    purpose: str
    channel: Channel | None = None
    topic: str | None = None
    message_class: MessageClass | None = None
    jurisdiction: str | None = None
    data_categories: tuple[str, ...] = ()
    recipient: str | None = None
    region: str | None = None
    address: NamedAddress | None = None
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


Obstacles: TypeAlias = tuple[Given, ...]


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
    """What one step of the evaluation looked at and found. `inputs` are codes, instants and entry ids, never identifiers.

    `ref` is the entry that the first of its reasons rests on, if there is one.
    """

    step: Step
    outcome: Literal["passed", "denied", "permitted"]
    reasons: tuple[str, ...]
    inputs: dict[str, Any]
    ref: str | None = None


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
    unsound = _system(policy, question, situation)
    if unsound or policy is None:
        return Deny(tuple(Given(reason(code)) for code in unsound), now + 1)
    valid_until = now + TTL_MS.get(question.action, _DEFAULT_TTL_MS)
    if situation.policy_until is not None:  # by our clock it may be over already
        valid_until = max(min(valid_until, situation.policy_until), now + 1)
    if policy.changes_at_ms is not None and policy.changes_at_ms < valid_until:
        valid_until = max(policy.changes_at_ms, now + 1)
    purpose = policy.purposes.get(question.purpose)
    if purpose is None:
        return Deny((Given(reason("request.purpose_unknown")),), valid_until)

    case = _case(policy, purpose, state, question, now)
    obstacles: Obstacles = ()
    for step in _PERSONAL:
        try:
            found = step(case)
        except Exception:  # noqa: BLE001 - as in `evaluate`: it denies in the place of the step
            found = (Given(reason("system.evaluation_error")),)
        if found:
            obstacles += found if len(found) == 1 else tuple(sorted(found, key=lambda given: given.reason.number))
            if not question.every_reason:
                break
    for change in case.changes():
        if change is not None and now < change < valid_until:
            valid_until = change
    if obstacles:
        return Deny(obstacles, valid_until)
    return Permit((case.permitting(),), case.obligations(), valid_until)


def _system(policy: CompiledPolicy | None, question: Question, situation: Situation) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if policy is None and not (situation.stale or situation.late):
        found += ("system.policy_unavailable",)
    if situation.stale:
        found += ("system.state_stale",)
    if situation.unlogged:
        found += ("system.evaluation_error",)
    if situation.late:
        found += ("system.deadline_exceeded",)
    if policy is not None and (
        policy.suspended.workspace
        or question.purpose in policy.suspended.purposes
        or question.channel in policy.suspended.channels
    ):
        found += ("system.suspended",)
    if situation.restoring:
        found += ("system.restoring",)
    if situation.clock_skewed:
        found += ("system.clock_skew",)
    return found


def _case(
    policy: CompiledPolicy, purpose: CompiledPurpose, state: DataSubjectState, question: Question, now: int
) -> _Case:
    """The case, on premises that are remembered if somebody asked the like before."""
    asked = (
        purpose.key, question.action, question.channel, question.message_class, state.jurisdiction, question.jurisdiction,
    )  # fmt: skip
    return _Case(policy, policy.premises.get(asked) or remember(policy, asked), state, question, now)


class _Case:
    """One question about one person at one instant, with what several steps need, computed once.

    `flaws` are why the grant that decides does not carry the question; `carried` says that there is one without, and
    that it was not given by a child alone.
    """

    def __init__(
        self, policy: CompiledPolicy, premises: Premises, state: DataSubjectState, question: Question, now: int
    ) -> None:
        self.policy, self.premises, self.state, self.question, self.now = policy, premises, state, question, now
        self.purpose, self.terms = premises.purpose, premises.terms
        self.basis = self._basis() if state.birth_date else premises.terms.basis
        self.choices = state.choices(premises.purpose.key) if premises.objections_count else self._without_objections()
        channel = question.channel
        self.standing = self._on_any_channel() if channel is None else self.choices.standing(channel)
        self.flaws = self._flaws(self.standing) if self.standing.state == "granted" else ()
        self.carried = self.standing.state == "granted" and not self.flaws
        if self.carried and state.birth_date:
            self.carried = not self._immature()
        self.kept_until = None if premises.purpose.retention is None else self._kept_until(premises.purpose.retention)
        self._obligations_found: tuple[Obligation, ...] | None = None
        self._served_by: dict[tuple[str, Action], _Case] = {}

    def _basis(self) -> LawfulBasis:
        """The basis that binds: the stricter of the purpose's and the jurisdiction's, with what minors are owed."""
        basis = self.terms.basis
        if self._younger_than(self.terms.minors_prohibited_below):
            return LawfulBasis.PROHIBITED
        if basis is not _PROHIBITED and self._younger_than(self.terms.age_of_sale):
            return LawfulBasis.CONSENT
        return basis

    def _immature(self) -> bool:
        """True if the grant that stands was given by a child alone.

        Not if they were, by the birth date that is known now, as old as it took where they lived then.
        """
        event = self.standing.decided_by
        if self.standing.state != "granted" or event is None or event.actor == "guardian" or not self._is_child():
            return False
        required = event.age_of_consent
        return required is None or event.occurred_at < comes_of_age(self.state.birth_date, required)

    def _is_child(self) -> bool:
        """True if the person, whose age is known, is too young to consent alone."""
        return self._younger_than(self.terms.age_of_consent)

    def _younger_than(self, years: int | None) -> bool:
        """True if the person, whose age is known, is younger. Whose age nobody knows is not treated as a child."""
        return years is not None and self.now < comes_of_age(self.state.birth_date, years)

    def _without_objections(self) -> Choices:
        """The person's choices on a purpose that is exempt from objections: they count for nothing."""
        choices = self.state.choices(self.purpose.key)
        return choices_of(tuple(event for event in choices.events if event.kind != "object"))

    def _on_any_channel(self) -> Standing:
        """The standing that decides where no channel is asked for.

        A valid grant on any channel, else what covers all channels, and where nothing does, a grant that is not valid or
        a request that waits, so that the answer says so. The refusal of one channel is no answer for the others.
        """
        general, found = self.choices.standings[None], self.choices.standings.values()
        if len(found) == 1:
            return general
        granted = [standing for standing in found if standing.state == "granted"]
        valid = [standing for standing in granted if not self._flaws(standing)]
        if general.state == "unknown" and general.pending is None:
            waiting = [Standing("unknown", pending=one.pending) for one in found if one.pending is not None]
            return (*valid, *granted, *waiting, general)[0]
        return (*valid, general)[0]

    def _kept_until(self, retention: Duration) -> int | None:
        """When the retention of the purpose's data ends: so long after the person's last grant or relation, if any.

        A grant that was declared void counts too: the data came with it, and voiding it must not let them be kept.
        """
        given = self.state.choices(self.purpose.key).last_given()
        related = [fact.occurred_at for fact in self.state.relations.values()]
        latest = max(related if given is None else (given, *related), default=None)
        return None if latest is None else expires_at(latest, retention)

    # ---- steps: each gives the obstacles that it finds, in the order of their numbers

    def request(self) -> Obstacles:
        purpose, topic = self.purpose, self.question.topic
        found: Obstacles = ()
        for unfit in self.premises.unfit:
            found += (Given(unfit),)
        if purpose.retired_at_ms is not None and self.now >= purpose.retired_at_ms:
            found += (Given(reason("purpose.retired")),)
        if purpose.active_from_ms is not None and self.now < purpose.active_from_ms:
            found += (Given(reason("purpose.not_yet_active"), retry_at=purpose.active_from_ms),)
        if topic is not None and topic not in self.premises.topics:
            found += (Given(reason("request.topic_unknown")),)
        return found

    def data_subject(self) -> Obstacles:
        found: Obstacles = ()
        if self.state.restriction is not None and self.basis not in _OUTLASTS_RESTRICTION:
            found += (Given(reason("data_subject.processing_restricted"), self.state.restriction),)
        if self.state.birth_date and self._is_child() and self._consent_binds():
            if self.standing.state == "unknown":
                found += (Given(reason("data_subject.minor_no_guardian")),)
            elif self._immature():
                found += (Given(reason("data_subject.minor_no_guardian"), self.standing.decided_by),)
        return found

    def scope(self) -> Obstacles:
        purpose, question = self.purpose, self.question
        found: Obstacles = ()
        if self.basis is _PROHIBITED:
            found += (Given(reason("jurisdiction.prohibited")),)
        if question.data_categories and not purpose.data.issuperset(question.data_categories):
            found += (Given(reason("data.category_not_covered")),)
        if question.recipient is not None and question.recipient not in purpose.recipients:
            found += (Given(reason("data.recipient_not_covered")),)
        if question.region is not None and not covers_region(purpose, question.region):
            found += (Given(reason("data.region_not_covered")),)
        if self.kept_until is not None and self.now >= self.kept_until:
            found += (Given(reason("retention.elapsed")),)
        return found

    def objections(self) -> Obstacles:
        """Against marketing, and what serves it, an objection is heard whatever basis it claims."""
        if self.basis in _IGNORES_CHOICES and not self.premises.objections_absolute:
            return ()
        if self.standing.state == "objected":
            return (Given(reason("objection.recorded"), self.standing.decided_by),)
        for served in self.premises.served:  # who objects to a purpose objects to what serves it (GDPR Art. 21)
            objection = self.state.choices(served.key).objection()
            if objection is not None:
                return (Given(reason("objection.recorded"), objection),)
        if self.standing.state in ("denied", "withdrawn") and self._sale_opt_out():
            return (Given(reason("optout.sale_share"), self.standing.decided_by),)
        return ()

    def lawful_basis(self) -> Obstacles:
        if self.basis in _IGNORES_CHOICES or self.basis is _PROHIBITED or self.carried:
            return ()
        state, event, pending = self.standing.state, self.standing.decided_by, self.standing.pending
        asks = self._consent_binds()
        if asks and pending is not None:
            return (Given(reason("consent.pending_confirmation"), pending),)
        if state in ("denied", "withdrawn") and not self._sale_opt_out():
            return (Given(reason(f"consent.{state}"), event),)
        if asks and state == "granted":
            return self.flaws
        if asks and state == "unknown":
            elsewhere = any(standing.state == "granted" for standing in self.choices.standings.values())
            return (Given(reason("consent.scope_mismatch" if elsewhere else "consent.missing")),)
        return ()

    def address(self) -> Obstacles:
        kind = self.premises.address
        if kind is None:
            return ()
        registered = [one for one in self.state.identifiers if one.type == kind]
        if not registered:
            return (Given(reason("address.missing")),)
        if self.policy.addresses is not Addresses.VERIFIED:
            return ()
        named = self._named_address()
        verified = any(one.verified_at is not None for one in registered) if named is None else named.verified
        return () if verified else (Given(reason("address.unverified")),)

    def unsupported_obligations(self) -> Obstacles:
        if self.question.supported_obligations is None or not any(self.lacking()):
            return ()
        return (Given(reason("obligation.unsupported")),)

    # ---- what the steps ask

    def _consent_binds(self) -> bool:
        """True if only a consent permits: nothing else stands in for it, as a relation does under soft opt-in."""
        return self.basis in _ASKS_FIRST and self._relation() is None

    def _named_address(self) -> NamedAddress | None:
        """The address that the question names, if it is one that its channel reaches."""
        named = self.question.address
        return named if named is not None and named.type == self.premises.address else None

    def _address_to_use(self) -> int | None:
        """Where among the identifiers the address stands that must be used, if the person has unverified ones beside it.

        Of several it is the one that was verified last.
        """
        kind = self.premises.address
        if kind is None or self.policy.addresses is not Addresses.VERIFIED or self._named_address() is not None:
            return None
        registered = [(one.verified_at, place) for place, one in enumerate(self.state.identifiers) if one.type == kind]
        verified = [(at, place) for at, place in registered if at is not None]
        return max(verified)[1] if 0 < len(verified) < len(registered) else None

    def lacking(self) -> Iterator[str]:
        """The types of mandatory obligations that the caller says it cannot perform."""
        supported = self.question.supported_obligations
        if supported is not None:
            yield from (one.type for one in self.obligations() if one.mandatory and one.type not in supported)

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

    # ---- what the answer carries

    def permitting(self) -> Given:
        """The reason of a permit: a valid grant whatever basis would hold too, else the basis that binds."""
        if self.carried:
            return Given(reason("consent.granted"), self.standing.decided_by)
        relation = self._relation()
        assert (relation is None) is (self.basis is not LawfulBasis.SOFT_OPT_IN)
        return Given(reason(_BASIS_REASON[self.basis]), relation)

    def carries(self) -> bool:
        """True if the basis permits where its own step finds no obstacle: what objections and prohibitions deny, other steps say."""
        heard = self.premises.objections_absolute or self.basis not in _IGNORES_CHOICES
        objected = self.standing.state == "objected" and heard
        return self.basis is not LawfulBasis.PROHIBITED and not objected

    def obligations(self) -> tuple[Obligation, ...]:
        if self._obligations_found is None:
            self._obligations_found = tuple(self._obligations())
        return self._obligations_found

    def _obligations(self) -> list[Obligation]:
        purpose, question, found = self.purpose, self.question, []
        if (question.action, question.channel, self.premises.message_class) == _MARKETING_EMAIL:
            found.append(Obligation("include_unsubscribe", {"text_key": "unsubscribe"}))
        if purpose.served_by:
            if question.action is not _PROFILE and self._serving_denied(_PROFILE):
                found.append(Obligation("no_profiling", {}))
            if question.action is not _TRAIN and self._serving_denied(_TRAIN):
                found.append(Obligation("exclude_from_training", {}))
        if self.terms.human_review and question.action is Action.AUTOMATE:
            found.append(Obligation("no_automated_decision", {"human_review": True}))
        if question.action in _SALE and purpose.recipients and question.recipient is None:
            found.append(Obligation("restrict_recipients", {"allow": sorted(self._recipients())}))
        if self.kept_until is not None and question.action in _KEEPS:
            found.append(Obligation("delete_by", {"at": self.kept_until}))
        if (place := self._address_to_use()) is not None:
            found.append(Obligation("use_address", {"address_ref": f"/identifiers/{place}"}))
        if self.terms.show_notice and purpose.notice is not None and not self._told():
            version = self.policy.notices[purpose.notice].version
            found.append(Obligation("show_notice", {"notice": f"{purpose.notice}@{version}"}))
        if purpose.sensitive:
            found.append(Obligation("log_access", {}))
        return found

    def _recipients(self) -> frozenset[str]:
        """Whom the data may go to: where a grant carries the permit, not who was added to its notice later."""
        grant = self.standing.decided_by if self.carried else None
        if grant is None or grant.notice is None:
            return self.purpose.recipients
        _, version = _notice_version(grant.notice)
        later = (extension.recipients for extension in self.purpose.extensions if version < extension.version)
        return self.purpose.recipients.difference(*later)

    def _serving(self, key: str, action: Action) -> _Case:
        """The case of a purpose that serves this one."""
        case = self._served_by.get((key, action))
        if case is None:
            asked = Question(action=action, purpose=key, jurisdiction=self.question.jurisdiction)
            case = _case(self.policy, self.policy.purposes[key], self.state, asked, self.now)
            self._served_by[key, action] = case
        return case

    def _serving_denied(self, action: Action) -> bool:
        """True if a purpose that serves this one has the action, and it is denied for this person or switched off."""
        return any(
            key in self.policy.suspended.purposes or any(step(self._serving(key, action)) for step in _CHOICES)
            for key in self.purpose.served_by
            if action in self.policy.purposes[key].actions
        )

    def _told(self) -> bool:
        """True if the person saw, or agreed to, a version of the notice that still stands."""
        return any(
            (event.kind == "acknowledge" or event.kind in PERMITTING) and not self._outdated(event)
            for event in self.choices.events
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
                return {"jurisdictions": list(self.premises.places), "kept_until": self.kept_until}
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

    def changes(self) -> list[int | None]:
        """The instants at which time alone may change the answer."""
        found = self._own_changes()
        for key in self.purpose.served_by:
            for action in _LEARNS & self.policy.purposes[key].actions:
                found += self._serving(key, action)._own_changes()
        return found

    def _own_changes(self) -> list[int | None]:
        found: list[int | None] = [*self.premises.changes, self.kept_until]
        deciding = self.choices.standings.values() if self.question.channel is None else (self.standing,)
        for standing in deciding:
            grant = standing.decided_by
            if grant is not None and standing.state == "granted":
                found += (grant.valid_from, self._expiry(grant))
        if self.terms.relations:
            found += [until for _, until in self._relations()]
        if self.state.birth_date:
            found += [comes_of_age(self.state.birth_date, age) for age in self.premises.ages]
        return found

    def _expiry(self, event: ConsentEvent) -> int | None:
        """When a grant ends: kept with the choices, since it follows from them, the lives and the age, and not from the time."""
        adult = adult_at(self.state, self.premises.guardian_until) if event.actor == "guardian" else None
        lives, ends = self.premises.lives, self.choices.ends
        try:
            return ends[event.entry, lives, adult]
        except KeyError:
            if len(ends) >= MOST_ENDS:
                ends.clear()
            end = ends[event.entry, lives, adult] = ends_at(event, lives, adult)
            return end

    def _flaws(self, standing: Standing) -> Obstacles:
        """Why a grant does not carry the question at this instant, by number: expired, outdated, badly proved, not yet in effect."""
        event = standing.decided_by
        assert event is not None
        found: Obstacles = ()
        expiry = self._expiry(event)
        if expiry is not None and self.now >= expiry:
            found += (Given(reason("consent.expired"), event),)
        if self._outdated(event):
            found += (Given(reason("consent.notice_outdated"), event),)
        if event.grade < self.premises.minimum_grade:
            found += (Given(reason("consent.evidence_invalid"), event),)
        if event.valid_from is not None and self.now < event.valid_from:
            found += (Given(reason("consent.not_yet_effective"), event, event.valid_from),)
        return found

    def _outdated(self, event: ConsentEvent) -> bool:
        """True if the notice of a grant has changed materially since, or was extended by what the question names."""
        if event.notice is None or self.purpose.required_notice_version is None:
            return False
        notice, version = _notice_version(event.notice)
        if notice != self.purpose.notice or version < self.purpose.required_notice_version:
            return True
        return bool(self.purpose.extensions) and any(
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


_Rule: TypeAlias = Callable[[_Case], Obstacles]
_CHOICES: Final[tuple[_Rule, ...]] = (
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
    """Every step of the evaluation in its order, whatever an earlier one found; never raises for what a rule raises."""
    broken = _system(policy, question, situation)
    flaws = [name for name in ("restoring", "stale", "clock_skewed", "late") if getattr(situation, name)]
    traced = [Traced("system", "denied" if broken else "passed", broken, {"unsound": flaws})]
    purpose = policy.purposes.get(question.purpose)
    if purpose is None:
        unknown = Traced("request", "denied", ("request.purpose_unknown",), {"purpose": question.purpose})
        return (*traced, unknown)
    for step, rule in zip(_STEP_NAMES, _PERSONAL, strict=True):
        try:
            traced.append(_traced(step, rule, _case(policy, purpose, state, question, now)))
        except Exception:  # noqa: BLE001 - as in `evaluate`
            traced.append(Traced(step, "denied", ("system.evaluation_error",), {}))
    return tuple(traced)


def _traced(step: Step, rule: _Rule, case: _Case) -> Traced:
    obstacles = rule(case)
    permitting = (case.permitting(),) if step == "basis" and not obstacles and case.carries() else ()
    outcome: Literal["passed", "denied", "permitted"]
    outcome = "denied" if obstacles else "permitted" if permitting else "passed"
    found = obstacles or permitting
    ref = found[0].event.entry if found and found[0].event is not None else None
    return Traced(step, outcome, tuple(given.reason.code for given in found), case.inputs(step), ref)


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
        on_topics = [msgspec.structs.replace(question, topic=topic) for topic in topics]
        # A topic decides no more than whether it may be asked about, and these may: the first one stands for all.
        if on_topics and _permits(evaluate(policy, state, on_topics[0], now, situation)):
            others += on_topics
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
    return (
        a_page_suffices(purpose, state, now)
        and locked_until(policy, state, (purpose.key,), now, question.jurisdiction) is None
    )


def _remedies(
    policy: CompiledPolicy | None, state: DataSubjectState, question: Question, given: Given, now: int
) -> Iterator[dict[str, Any]]:
    remedy = given.reason.remedy
    if remedy is None:
        return
    purpose = policy.purposes.get(question.purpose) if policy is not None else None
    match remedy:
        case "ask_consent" if policy is not None and purpose is not None:
            locked = locked_until(policy, state, (purpose.key,), now, question.jurisdiction)
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
            lacking = _case(policy, purpose, state, question, now).lacking()
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
