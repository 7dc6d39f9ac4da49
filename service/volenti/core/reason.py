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
Remedy = Literal[
    "ask_consent", "collect_address", "confirm_pending", "extend_expiry", "keyword", "narrow_request", "open_preferences",
    "reserve", "retry", "support_obligation", "use_id", "verify_address", "wait_until",
]  # fmt: skip
"""What would change a denial, as a program can act on it."""

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
    """A reason code: its number, step and effect, who or what can lift it, and what would change it, if anything can."""

    number: int
    code: str
    step: Step
    effect: Effect
    time_lifts: bool = False  # waiting alone changes the answer
    person_lifts: bool = False  # the person can change it
    remedy: Remedy | None = None
    text: str = ""

    @property
    def lifted_by(self) -> str:
        """Who or what can lift it, in words; empty if nobody can, short of other facts."""
        lifting = (
            ("time", self.time_lifts),
            ("the person", self.person_lifts),
            ("the operator of the service", self.step == "system"),
        )
        return ", ".join(words for words, does in lifting if does)


_REGISTRY = (
    Reason(1, "consent.granted", "basis", "permit", text="The person consented, and the consent is in force."),
    Reason(2, "basis.contract", "basis", "permit", text="The purpose is necessary for a contract with the person (GDPR Art. 6(1)(b))."),
    Reason(3, "basis.legal_obligation", "basis", "permit", text="The law obliges the controller (GDPR Art. 6(1)(c))."),
    Reason(4, "basis.legitimate_interest", "basis", "permit", text="Legitimate interest, and the person did not object (GDPR Art. 6(1)(f))."),
    Reason(5, "basis.opt_out_regime", "basis", "permit", text="The law permits unless the person opts out, and the person did not."),
    Reason(6, "basis.soft_opt_in", "basis", "permit", text="A dated relation with the person qualifies (ePrivacy Art. 13(2) and the like), and the person did not opt out."),
    Reason(7, "basis.vital_interest", "basis", "permit", text="It is necessary to protect somebody's vital interests (GDPR Art. 6(1)(d))."),
    Reason(8, "basis.public_task", "basis", "permit", text="A task in the public interest, and the person did not object (GDPR Art. 6(1)(e))."),
    Reason(10, "system.policy_unavailable", "system", "deny", remedy="retry", text="No policy is published, or it cannot be read."),
    Reason(11, "system.state_stale", "system", "deny", remedy="retry", text="The person's present state cannot be read."),
    Reason(12, "system.evaluation_error", "system", "deny", remedy="retry", text="A rule failed; an error never permits."),
    Reason(13, "system.deadline_exceeded", "system", "deny", remedy="retry", text="The answer took longer than the caller allowed."),
    Reason(14, "system.suspended", "system", "deny", remedy="retry", text="A kill switch of the policy is on for the workspace, the purpose or the channel."),
    Reason(15, "system.restoring", "system", "deny", remedy="retry", text="The ledger does not match what was signed, or is being recovered."),
    Reason(16, "system.clock_skew", "system", "deny", remedy="retry", text="The clocks of service and database are more than two seconds apart."),
    Reason(20, "request.purpose_unknown", "request", "deny", text="The policy has no such purpose."),
    Reason(21, "request.action_not_in_purpose", "request", "deny", text="The purpose does not cover this action."),
    Reason(22, "request.channel_unknown", "request", "deny", text="The purpose does not use this channel."),
    Reason(23, "request.class_relaxation", "request", "deny", text="A message class may only be stricter than the purpose's."),
    Reason(24, "purpose.retired", "request", "deny", text="The purpose is retired."),
    Reason(25, "purpose.not_yet_active", "request", "deny", time_lifts=True, remedy="wait_until", text="The purpose is not active yet."),
    Reason(26, "request.invalid", "request", "deny", text="The item of a batch is no valid question."),
    Reason(27, "request.entity_type_unknown", "request", "deny", text="There are no entities of this type."),
    Reason(28, "request.out_of_scope", "request", "deny", text="The credential does not cover this question."),
    Reason(29, "request.topic_unknown", "request", "deny", text="The purpose has no such topic."),
    Reason(30, "data_subject.erased", "data_subject", "deny", text="The person was erased."),
    Reason(31, "data_subject.deceased", "data_subject", "deny", text="The person has died."),
    Reason(32, "data_subject.processing_restricted", "data_subject", "deny", text="Processing is restricted for this person (GDPR Art. 18)."),
    Reason(33, "data_subject.minor_no_guardian", "data_subject", "deny", text="The person is too young to consent alone, and no guardian has."),
    Reason(34, "data_subject.blocked", "data_subject", "deny", text="The person is blocked."),
    Reason(35, "data_subject.ambiguous_identifier", "data_subject", "deny", remedy="use_id", text="The identifier belongs to more than one person."),
    Reason(40, "jurisdiction.prohibited", "scope", "deny", text="The law of a place that binds prohibits it."),
    Reason(41, "data.category_not_covered", "scope", "deny", remedy="narrow_request", text="The purpose does not cover a category of data."),
    Reason(42, "data.recipient_not_covered", "scope", "deny", remedy="narrow_request", text="The purpose does not name this recipient."),
    Reason(43, "data.region_not_covered", "scope", "deny", remedy="narrow_request", text="The purpose does not name this region."),
    Reason(44, "retention.elapsed", "scope", "deny", text="The data should be gone: the purpose's retention has elapsed."),
    Reason(45, "signal.gpc_opt_out", "signals", "deny", person_lifts=True, remedy="open_preferences", text="A signal of the person's browser or device refuses."),
    Reason(46, "objection.recorded", "objections", "deny", person_lifts=True, remedy="open_preferences", text="The person objected (GDPR Art. 21)."),
    Reason(47, "optout.sale_share", "objections", "deny", person_lifts=True, remedy="open_preferences", text="The person opted out of sale and sharing."),
    Reason(48, "optout.all_marketing", "objections", "deny", person_lifts=True, remedy="open_preferences", text="The person opted out of all marketing."),
    Reason(50, "consent.missing", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The person has not been asked, or has not answered."),
    Reason(51, "consent.pending_confirmation", "basis", "deny", person_lifts=True, remedy="confirm_pending", text="The person asked for it and has not confirmed yet."),
    Reason(52, "consent.denied", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The person was asked and refused."),
    Reason(53, "consent.withdrawn", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The person withdrew."),
    Reason(54, "consent.expired", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The consent has expired."),
    Reason(55, "consent.notice_outdated", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The consent was given to a notice that has changed materially since."),
    Reason(56, "consent.scope_mismatch", "basis", "deny", person_lifts=True, remedy="ask_consent", text="The consent covers other channels only."),
    Reason(57, "consent.evidence_invalid", "basis", "deny", text="The consent is proved less well than the purpose demands."),
    Reason(58, "consent.not_yet_effective", "basis", "deny", time_lifts=True, remedy="wait_until", text="The consent is not in effect yet."),
    Reason(60, "address.missing", "address", "deny", person_lifts=True, remedy="collect_address", text="No address of the person is registered for this channel."),
    Reason(61, "address.unverified", "address", "deny", person_lifts=True, remedy="verify_address", text="No address of the person for this channel is verified."),
    Reason(62, "suppression.hard_bounce", "address", "deny", remedy="collect_address", text="The address cannot be reached."),
    Reason(63, "suppression.complaint", "address", "deny", text="The person complained about a message to this address."),
    Reason(64, "suppression.carrier_stop", "address", "deny", person_lifts=True, remedy="keyword", text="The person told the carrier to stop messages to this number."),
    Reason(65, "suppression.registry", "address", "deny", text="The address is on a do-not-contact register."),
    Reason(66, "suppression.manual", "address", "deny", text="The address was unsubscribed or blocked."),
    Reason(70, "channel.opted_out", "preference", "deny", person_lifts=True, remedy="open_preferences", text="The person opted out of the channel."),
    Reason(71, "topic.opted_out", "preference", "deny", person_lifts=True, remedy="open_preferences", text="The person opted out of the topic."),
    Reason(72, "preference.paused", "preference", "defer", time_lifts=True, person_lifts=True, remedy="wait_until", text="The person paused messages. Beyond the horizon of 14 days it denies."),
    Reason(80, "timing.regulatory_window", "timing", "defer", time_lifts=True, remedy="wait_until", text="The law allows messages of this kind at other hours only."),
    Reason(81, "timing.quiet_hours", "timing", "defer", time_lifts=True, remedy="wait_until", text="It is a quiet hour."),
    Reason(83, "timing.expires_before_window", "timing", "deny", remedy="extend_expiry", text="The message expires before it may be sent."),
    Reason(84, "timing.no_window", "timing", "deny", text="There is no allowed hour within the horizon, or the person's time is not known."),
    Reason(90, "frequency.cap_reached", "frequency", "deny", time_lifts=True, remedy="wait_until", text="A limit on the number of messages is reached. A cap may defer instead."),
    Reason(92, "frequency.reservation_conflict", "reserve", "deny", text="The reservation key stands for another question."),
    Reason(93, "frequency.reservation_required", "frequency", "deny", remedy="reserve", text="A limit applies, and the question reserves nothing."),
    Reason(95, "obligation.unsupported", "obligations", "deny", remedy="support_obligation", text="The caller cannot perform a mandatory obligation."),
)  # fmt: skip

REASONS: dict[str, Reason] = {reason.code: reason for reason in _REGISTRY}
"""Every code, by its wire value, in the order of the numbers."""

OF_LATER_VERSIONS: frozenset[str] = frozenset(
    code for code, entry in REASONS.items() if entry.number in {27, 30, 31, 34, 35, 45, 48} or 62 <= entry.number < 95
)
"""Codes whose meaning is fixed and which this version never answers: the part of it that would is not there yet."""


def reason(code: str) -> Reason:
    """The registry's row of a code. Raises KeyError for a code that is not registered: a programming error."""
    return REASONS[code]


def reason_page() -> str:
    """The registry as a page for people, in Markdown: docs/reasons.md."""
    lines = [
        "# Reasons",
        "",
        "<!-- made by `make docs` from volenti.core.reason; do not edit -->",
        "",
        "Every answer of a check says why, in these codes. The list only grows: a code keeps its number, step, effect and",
        "meaning for ever. `reason` is the first of `reasons`, which are in the order deny, defer, permit, then step, then",
        "number. A step is looked at whatever an earlier one found if the question says `detail: all`.",
        "",
        "What has the step `system` says nothing about the person (`determinate: false`): a single check answers it with 503.",
        "“Lifted by” tells what can change the answer: time alone (`retry_at` says when), or the person. A remedy is what a",
        "program can do about it; `remedies` of the answer has its details. Codes in *italics* are for a later version.",
    ]
    for step in STEPS:
        lines += [
            "",
            f"## {step}",
            "",
            "| number | code | effect | lifted by | remedy | meaning |",
            "|--|--|--|--|--|--|",
        ]
        lines += [_line(one) for one in REASONS.values() if one.step == step]
    return "\n".join(lines) + "\n"


def _line(one: Reason) -> str:
    code = f"*`{one.code}`*" if one.code in OF_LATER_VERSIONS else f"`{one.code}`"
    remedy = "" if one.remedy is None else f"`{one.remedy}`"
    return f"| {one.number} | {code} | {one.effect} | {one.lifted_by} | {remedy} | {one.text} |"


if __name__ == "__main__":
    print(reason_page(), end="")
