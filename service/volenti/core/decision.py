"""The read rule: may this be done, to this person, now?

`evaluate` is pure and total. Deny overrides permit; nothing that permits is a deny; an error inside a rule is a deny.
Of the steps of the registry this version has system, request, data_subject, objections, basis and obligations; a policy
or a question that needs another step is refused before it gets here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from volenti.core.consent import ConsentEvent, Standing, scopes, settle
from volenti.core.data_subject import DataSubjectState
from volenti.core.policy.compile import CompiledPolicy, CompiledPurpose, basis_for
from volenti.core.policy.document import Action, Channel, LawfulBasis, MessageClass, grade_number
from volenti.core.policy.duration import expires_at
from volenti.core.reason import STEPS, Reason, reason

TTL_MS: Mapping[Action, int] = {Action.SEND: 60_000}
"""How long an answer may be reused, by action; every other action 300 s."""
_DEFAULT_TTL_MS = 300_000

_CLASS_ORDER = {
    cls: rank
    for rank, cls in enumerate(
        (MessageClass.EMERGENCY, MessageClass.TRANSACTIONAL, MessageClass.SERVICE, MessageClass.MARKETING)
    )
}
"""From what passes most to what is bound most: a message may only be stricter than its purpose."""

_IGNORES_CHOICES = frozenset((LawfulBasis.CONTRACT, LawfulBasis.LEGAL_OBLIGATION))
_SALE = frozenset((Action.SELL, Action.SHARE))
_BASIS_REASON = {
    LawfulBasis.CONTRACT: "basis.contract",
    LawfulBasis.LEGAL_OBLIGATION: "basis.legal_obligation",
    LawfulBasis.LEGITIMATE_INTEREST: "basis.legitimate_interest",
    LawfulBasis.OPT_OUT: "basis.opt_out_regime",
}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a component wants to do. `jurisdiction` is the caller's knowledge; with the person's own the stricter wins."""

    action: Action
    purpose: str
    channel: Channel | None = None
    topic: str | None = None
    message_class: MessageClass | None = None
    jurisdiction: str | None = None
    supported_obligations: frozenset[str] | None = None  # None: the caller did not say
    every_reason: bool = False  # False: stop at the first step that denies


class Situation(msgspec.Struct, frozen=True):
    """What the shell knows about the ground that an answer stands on. Anything wrong denies, for everybody."""

    restoring: bool = False
    stale: bool = False
    clock_skewed: bool = False
    late: bool = False
    policy_until: int | None = None
    """When another policy comes into force: no answer is valid beyond it."""


SOUND = Situation()


class Given(msgspec.Struct, frozen=True):
    """A reason with what it rests on: the ledger event, and when time alone would lift it."""

    reason: Reason
    event: ConsentEvent | None = None
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
    limit = now + TTL_MS.get(question.action, _DEFAULT_TTL_MS)
    if situation.policy_until is not None:
        limit = max(min(limit, situation.policy_until), now + 1)
    unsound = tuple(Given(reason(code)) for code in _system(policy, situation))
    if unsound or policy is None:
        return Deny(unsound, now + 1)
    purpose = policy.purposes.get(question.purpose)
    if purpose is None:
        return Deny((Given(reason("request.purpose_unknown")),), limit)

    case = _Case(policy, purpose, state, question, now)
    obstacles: list[Given] = []
    for step in (case.request, case.objections, case.basis_obstacles, case.unsupported_obligations):
        obstacles.extend(step())
        if obstacles and not question.every_reason:
            break
    valid_until = min((change for change in case.changes() if change > now), default=limit)
    valid_until = min(valid_until, limit)
    if obstacles:
        obstacles.sort(key=lambda given: (STEPS.index(given.reason.step), given.reason.number))
        return Deny(tuple(obstacles), valid_until)
    return Permit((case.permitting(),), case.obligations(), valid_until)


def _system(policy: CompiledPolicy | None, situation: Situation) -> Iterator[str]:
    if policy is None and not (situation.stale or situation.late):
        yield "system.policy_unavailable"
    if situation.stale:
        yield "system.state_stale"
    if situation.late:
        yield "system.deadline_exceeded"
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
        self.purpose, self.question, self.now = purpose, question, now
        self.topics = policy.document.topics  # of a purpose that lists none
        jurisdictions = tuple(place for place in (state.jurisdiction, question.jurisdiction) if place)
        self.basis = basis_for(purpose, jurisdictions)
        self.events = state.on(question.purpose)
        self.standing = self._standing()

    def _standing(self) -> Standing:
        """The standing that decides.

        Of the channel asked for; without one, a valid grant on any channel, else what covers all channels, and where
        nothing does, a grant that is not valid, so that the answer says what is wrong with it.
        """
        if self.question.channel is not None:
            return settle(self.events, self.question.channel)
        found = [settle(self.events, channel) for channel in scopes(self.events)]
        granted = [standing for standing in found if standing.state == "granted"]
        valid = [standing for standing in granted if not any(self._flaws(standing))]
        if found[0].state == "unknown":
            return (*valid, *granted, found[0])[0]
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
        if question.topic is not None and question.topic not in (purpose.topics or self.topics):
            yield Given(reason("request.topic_unknown"))

    def objections(self) -> Iterator[Given]:
        if self.basis in _IGNORES_CHOICES:
            return
        if self.standing.state == "objected":
            yield Given(reason("objection.recorded"), self.standing.decided_by)
        elif self.standing.state in ("denied", "withdrawn") and self._sale_opt_out():
            yield Given(reason("optout.sale_share"), self.standing.decided_by)

    def basis_obstacles(self) -> Iterator[Given]:
        if self.basis in _IGNORES_CHOICES:
            return
        state, event = self.standing.state, self.standing.decided_by
        if state == "denied" and not self._sale_opt_out():
            yield Given(reason("consent.denied"), event)
        elif state == "withdrawn" and not self._sale_opt_out():
            yield Given(reason("consent.withdrawn"), event)
        elif self.basis is LawfulBasis.CONSENT and state == "granted":
            yield from self._flaws(self.standing)
        elif self.basis is LawfulBasis.CONSENT and state == "unknown":
            elsewhere = any(settle(self.events, channel).state == "granted" for channel in scopes(self.events))
            yield Given(reason("consent.scope_mismatch" if elsewhere else "consent.missing"))

    def unsupported_obligations(self) -> Iterator[Given]:
        supported = self.question.supported_obligations
        if supported is not None and any(
            obligation.mandatory and obligation.type not in supported for obligation in self.obligations()
        ):
            yield Given(reason("obligation.unsupported"))

    # ---- what the answer carries

    def permitting(self) -> Given:
        """The reason of a permit: a valid grant whatever basis would hold too, else the basis that binds."""
        if self.standing.state == "granted" and not any(self._flaws(self.standing)):
            return Given(reason("consent.granted"), self.standing.decided_by)
        return Given(reason(_BASIS_REASON[self.basis]))

    def obligations(self) -> tuple[Obligation, ...]:
        message_class = self.question.message_class or self.purpose.message_class
        if (
            self.question.action is Action.SEND
            and self.question.channel is Channel.EMAIL
            and message_class is MessageClass.MARKETING
        ):
            return (Obligation("include_unsubscribe", {"text_key": "unsubscribe"}),)
        return ()

    def changes(self) -> Iterator[int]:
        """The instants at which time alone may change the answer."""
        for instant in (self.purpose.active_from_ms, self.purpose.retired_at_ms):
            if instant is not None:
                yield instant
        for event in self.events:
            if event.kind == "grant":
                for instant in (event.valid_from, self._expiry(event)):
                    if instant is not None:
                        yield instant

    def _expiry(self, event: ConsentEvent) -> int | None:
        ends = [] if event.valid_until is None else [event.valid_until]
        if self.purpose.valid_for is not None:
            ends.append(expires_at(event.occurred_at, self.purpose.valid_for))
        return min(ends, default=None)

    def _flaws(self, standing: Standing) -> Iterator[Given]:
        """Why a grant does not carry the question at this instant, by number: expired, outdated, badly proved, not yet in effect."""
        event = standing.decided_by
        assert event is not None
        expiry = self._expiry(event)
        if expiry is not None and self.now >= expiry:
            yield Given(reason("consent.expired"), event)
        if event.notice is not None and self.purpose.required_notice_version is not None:
            notice, _, version = event.notice.rpartition("@")
            if notice != self.purpose.notice or int(version) < self.purpose.required_notice_version:
                yield Given(reason("consent.notice_outdated"), event)
        if event.grade < grade_number(self.purpose.minimum_evidence):
            yield Given(reason("consent.evidence_invalid"), event)
        if event.valid_from is not None and self.now < event.valid_from:
            yield Given(reason("consent.not_yet_effective"), event, event.valid_from)

    def _sale_opt_out(self) -> bool:
        return self.basis is LawfulBasis.OPT_OUT and self.question.action in _SALE


def remedies(decision: Decision, notice: str | None, purpose: str) -> list[dict[str, Any]]:
    """What would change a denial, machine-readable, in the order of its reasons; a reason may have none."""
    if isinstance(decision, Permit):
        return []
    found: list[dict[str, Any]] = []
    for given in decision.reasons:
        match given.reason.number:
            case 50 | 52 | 53 | 54 | 55 | 56:
                found.append({"type": "ask_consent", "purpose": purpose, "notice": notice})
            case 46 | 47:
                found.append({"type": "open_preferences"})
            case 25 | 58:
                found.append({"type": "wait_until", "at": given.retry_at})
            case 95:
                found.append({"type": "support_obligation", "obligation": "include_unsubscribe"})
            case number if number < 20:
                found.append({"type": "retry", "after_ms": 1000})
            case _:
                pass
    return found
