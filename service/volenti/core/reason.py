"""The closed vocabulary of why a check or a write is answered as it is.

Codes are append-only: a code never disappears and never changes its number, step or effect. The number is what logs and
statistics store; the string is the wire value.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Step = Literal[
    "system",
    "request",
    "data_subject",
    "scope",
    "signals",
    "objections",
    "basis",
    "address",
    "preference",
    "timing",
    "frequency",
    "obligations",
    "reserve",
]
Effect = Literal["permit", "deny", "defer"]

STEPS: tuple[Step, ...] = (
    "system",
    "request",
    "data_subject",
    "scope",
    "signals",
    "objections",
    "basis",
    "address",
    "preference",
    "timing",
    "frequency",
    "obligations",
    "reserve",
)
"""In the order in which a question is evaluated."""


class Reason(msgspec.Struct, frozen=True):
    """A reason code: its number, step and effect, and who or what can lift it."""

    number: int
    code: str
    step: Step
    effect: Effect
    time_lifts: bool = False  # waiting alone changes the answer
    person_lifts: bool = False  # the person can change it
    text: str = ""


_REGISTRY = (
    Reason(1, "consent.granted", "basis", "permit", text="The person consented, and the consent is in force."),
    Reason(2, "basis.contract", "basis", "permit", text="The purpose is necessary for a contract with the person (GDPR Art. 6(1)(b))."),
    Reason(3, "basis.legal_obligation", "basis", "permit", text="The law obliges the controller (GDPR Art. 6(1)(c))."),
    Reason(4, "basis.legitimate_interest", "basis", "permit", text="Legitimate interest, and the person did not object (GDPR Art. 6(1)(f))."),
    Reason(5, "basis.opt_out_regime", "basis", "permit", text="The law permits unless the person opts out, and the person did not."),
    Reason(10, "system.policy_unavailable", "system", "deny", text="No policy is published, or it cannot be read."),
    Reason(11, "system.state_stale", "system", "deny", text="The person's present state cannot be read."),
    Reason(12, "system.evaluation_error", "system", "deny", text="A rule failed; an error never permits."),
    Reason(13, "system.deadline_exceeded", "system", "deny", text="The answer took longer than the caller allowed."),
    Reason(15, "system.restoring", "system", "deny", text="The ledger does not match what was signed, or is being recovered."),
    Reason(16, "system.clock_skew", "system", "deny", text="The clocks of service and database are more than two seconds apart."),
    Reason(20, "request.purpose_unknown", "request", "deny", text="The policy has no such purpose."),
    Reason(21, "request.action_not_in_purpose", "request", "deny", text="The purpose does not cover this action."),
    Reason(22, "request.channel_unknown", "request", "deny", text="The purpose does not use this channel."),
    Reason(23, "request.class_relaxation", "request", "deny", text="A message class may only be stricter than the purpose's."),
    Reason(24, "purpose.retired", "request", "deny", text="The purpose is retired."),
    Reason(25, "purpose.not_yet_active", "request", "deny", time_lifts=True, text="The purpose is not active yet."),
    Reason(29, "request.topic_unknown", "request", "deny", text="The purpose has no such topic."),
    Reason(46, "objection.recorded", "objections", "deny", person_lifts=True, text="The person objected (GDPR Art. 21)."),
    Reason(47, "optout.sale_share", "objections", "deny", person_lifts=True, text="The person opted out of sale and sharing."),
    Reason(50, "consent.missing", "basis", "deny", person_lifts=True, text="The person has not been asked, or has not answered."),
    Reason(52, "consent.denied", "basis", "deny", person_lifts=True, text="The person was asked and refused."),
    Reason(53, "consent.withdrawn", "basis", "deny", person_lifts=True, text="The person withdrew."),
    Reason(54, "consent.expired", "basis", "deny", person_lifts=True, text="The consent has expired."),
    Reason(55, "consent.notice_outdated", "basis", "deny", person_lifts=True, text="The consent was given to a notice that has changed materially since."),
    Reason(56, "consent.scope_mismatch", "basis", "deny", person_lifts=True, text="The consent covers other channels only."),
    Reason(57, "consent.evidence_invalid", "basis", "deny", text="The consent is proved less well than the purpose demands."),
    Reason(58, "consent.not_yet_effective", "basis", "deny", time_lifts=True, text="The consent is not in effect yet."),
    Reason(95, "obligation.unsupported", "obligations", "deny", text="The caller cannot perform a mandatory obligation."),
)  # fmt: skip

REASONS: dict[str, Reason] = {reason.code: reason for reason in _REGISTRY}
"""Every code that this version answers, by its wire value."""


def reason(code: str) -> Reason:
    """The registry's row of a code. Raises KeyError for a code that is not registered: a programming error."""
    return REASONS[code]
