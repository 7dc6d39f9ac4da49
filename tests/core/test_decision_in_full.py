"""All that is wrong at once is told, in the order of steps and numbers; and what goes with a permit is told whole."""

from __future__ import annotations

import msgspec
import pytest

from made_policies import compiled, policy_of, row, stamped
from tables import at
from volenti.core.consent import ConsentEvent
from volenti.core.data_subject import UPDATED, DataSubjectState, Fact, Identifier
from volenti.core.decision import Deny, Permit, Question, Situation, evaluate, explain, requestable
from volenti.core.policy.document import Action, Channel, MessageClass

NOW = at("2026-07-01T12:00:00Z")
DAY = 86_400_000
YEAR_AND_DAY = 366 * DAY

POLICY = compiled(
    """\
controller: {name: Acme GmbH}
addresses: verified
topics: {weekly: {}, other: {}}
notices:
  nl: {version: 1, text: {en: {title: Newsletter, body: "Yes."}}}
suspend: {purposes: [suspended]}
purposes:
  nl:
    class: marketing
    actions: [send, use]
    basis: {default: consent}
    channels: [email, sms]
    topics: [weekly]
    data: [contact]
    recipients: [one]
    regions: [DE]
    notice: nl
    retention: P1Y
    consent: {minimum_evidence: E2}
    retired_at: 2026-01-01T00:00:00Z
  later: {actions: [use], basis: {default: consent}, notice: nl, active_from: 2026-08-01T00:00:00Z}
  suspended: {actions: [use], basis: {default: contract}}
  decides: {actions: [automate], basis: {default: legitimate_interest}, sensitive: true}
  kept: {actions: [retain, use], basis: {default: legitimate_interest}, retention: P1Y}
  soft: {class: marketing, actions: [send], basis: {default: soft_opt_in}, channels: [post], relations: {purchase: P1Y, contract: P100Y}}
  plain: {actions: [use], basis: {default: consent}, channels: [], notice: nl}
  both: {class: service, actions: [send, use], basis: {default: consent}, channels: [email, sms], notice: nl}
""",
    law=(row("DE", "human_review", True), row("DE", "age_of_consent", 16)),
)


def event(kind: str = "grant", occurred_at: int = NOW - DAY, **members: object) -> ConsentEvent:
    made = ConsentEvent(
        f"{kind} {occurred_at}", "grant", occurred_at, occurred_at, "data_subject", notice="nl@1", grade=2
    )
    return msgspec.structs.replace(made, kind=kind, **members)


def codes(state: DataSubjectState, question: Question) -> list[str]:
    decision = evaluate(POLICY, state, msgspec.structs.replace(question, every_reason=True), NOW)
    assert isinstance(decision, Deny), decision
    return [given.reason.code for given in decision.reasons]


def test_everything_that_is_wrong_with_a_question_is_told_in_order() -> None:
    state = DataSubjectState(
        jurisdiction="DE",
        birth_date="2015-01-01",
        restriction=Fact("r", "data_subject.restricted", NOW - DAY),
        consents={"nl": (event(occurred_at=NOW - YEAR_AND_DAY, grade=0, valid_until=NOW - 1, valid_from=NOW + 1),)},
    )
    question = Question(
        action=Action.PROFILE, purpose="nl", channel=Channel.PUSH, topic="other", message_class=MessageClass.SERVICE,
        data_categories=("contact", "health"), recipient="two", region="US",
    )  # fmt: skip
    assert codes(state, question) == [
        "request.action_not_in_purpose",
        "request.channel_unknown",
        "request.class_relaxation",
        "purpose.retired",
        "request.topic_unknown",
        "data_subject.processing_restricted",
        "data_subject.minor_no_guardian",
        "data.category_not_covered",
        "data.recipient_not_covered",
        "data.region_not_covered",
        "retention.elapsed",
        "consent.expired",
        "consent.evidence_invalid",
        "consent.not_yet_effective",
    ]


def test_what_is_wrong_with_a_person_nobody_asked_is_told_in_order() -> None:
    state = DataSubjectState(jurisdiction="DE", birth_date="2015-01-01", restriction=Fact("r", "data_subject.restricted", NOW - DAY))  # fmt: skip
    question = Question(action=Action.SEND, purpose="nl", channel=Channel.EMAIL, supported_obligations=frozenset())
    assert codes(state, question) == [
        "purpose.retired", "data_subject.processing_restricted", "data_subject.minor_no_guardian", "consent.missing", "address.missing",
        "obligation.unsupported",
    ]  # fmt: skip
    known = msgspec.structs.replace(state, identifiers=(Identifier("email", "ana@example.org"),))
    assert codes(known, question)[-2:] == ["address.unverified", "obligation.unsupported"]


def test_a_purpose_that_is_not_active_yet_and_a_topic_that_nobody_knows_are_both_told() -> None:
    question = Question(action=Action.USE, purpose="later", topic="nope")
    assert codes(DataSubjectState(), question) == ["purpose.not_yet_active", "request.topic_unknown", "consent.missing"]


def test_all_that_is_unsound_is_told_in_order() -> None:
    everything = Situation(restoring=True, stale=True, clock_skewed=True, late=True, unlogged=True)
    decision = evaluate(POLICY, DataSubjectState(), Question(action=Action.USE, purpose="suspended"), NOW, everything)
    assert isinstance(decision, Deny)
    assert [given.reason.code for given in decision.reasons] == [
        "system.state_stale", "system.evaluation_error", "system.deadline_exceeded", "system.suspended", "system.restoring",
        "system.clock_skew",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (Situation(), ["system.policy_unavailable"]),
        (Situation(stale=True), ["system.state_stale"]),
        (Situation(late=True), ["system.deadline_exceeded"]),
        (Situation(unlogged=True), ["system.policy_unavailable", "system.evaluation_error"]),
        (Situation(stale=True, late=True), ["system.state_stale", "system.deadline_exceeded"]),
    ],
)
def test_without_a_policy_it_is_told_what_kept_it_away(situation: Situation, expected: list[str]) -> None:
    decision = evaluate(None, DataSubjectState(), Question(action=Action.USE, purpose="plain"), NOW, situation)
    assert isinstance(decision, Deny)
    assert [given.reason.code for given in decision.reasons] == expected
    assert not requestable(None, DataSubjectState(), Question(action=Action.USE, purpose="plain"), decision, NOW)


def test_obligations_come_whole() -> None:
    decided = evaluate(
        POLICY, DataSubjectState(jurisdiction="DE"), Question(action=Action.AUTOMATE, purpose="decides"), NOW
    )
    assert isinstance(decided, Permit)
    assert [(one.type, one.properties, one.mandatory) for one in decided.obligations] == [
        ("no_automated_decision", {"human_review": True}, True),
        ("log_access", {}, True),
    ]


@pytest.mark.parametrize(
    ("given", "bought", "since"),
    [(None, 10, 10), (5, 10, 5), (20, 10, 10), (20, None, 20)],
)
def test_data_are_kept_from_the_later_of_a_permission_and_a_relation(
    given: int | None, bought: int | None, since: int
) -> None:
    state = DataSubjectState(
        consents={} if given is None else {"kept": (event(occurred_at=NOW - given * DAY),)},
        relations={} if bought is None else {"purchase": Fact("p", UPDATED, NOW - bought * DAY)},
    )
    decision = evaluate(POLICY, state, Question(action=Action.RETAIN, purpose="kept"), NOW)
    assert isinstance(decision, Permit)
    (delete,) = decision.obligations
    assert (delete.type, delete.properties) == ("delete_by", {"at": NOW + (365 - since) * DAY})


def test_the_relation_that_lasts_longest_is_the_evidence() -> None:
    bought, signed = Fact("bought", UPDATED, NOW - DAY), Fact("signed", UPDATED, NOW - 300 * DAY)
    question = Question(action=Action.SEND, purpose="soft", channel=Channel.POST)
    decision = evaluate(POLICY, DataSubjectState(relations={"purchase": bought, "contract": signed}), question, NOW)
    assert isinstance(decision, Permit)
    assert decision.reasons[0].event == signed


def test_without_a_channel_a_request_that_waits_on_one_is_what_is_told() -> None:
    waiting = event("request", channels=("sms",))
    state = DataSubjectState(consents={"both": (waiting,)})
    decision = evaluate(POLICY, state, Question(action=Action.USE, purpose="both"), NOW)
    assert isinstance(decision, Deny)
    assert [(given.reason.code, given.event) for given in decision.reasons] == [
        ("consent.pending_confirmation", waiting)
    ]


def test_without_a_channel_an_answer_holds_until_any_of_its_grants_ends() -> None:
    soon, late = NOW + 1000, NOW + 100 * DAY
    email = event(channels=("email",), valid_until=late)
    sms = event(occurred_at=NOW - DAY + 1, channels=("sms",), valid_until=soon)
    state = DataSubjectState(consents={"both": (email, sms)})
    for channel, until in ((None, soon), (Channel.SMS, soon)):
        action = Action.USE if channel is None else Action.SEND
        identified = msgspec.structs.replace(state, identifiers=(Identifier("phone", "+4915112345678", 1),))
        decision = evaluate(POLICY, identified, Question(action=action, purpose="both", channel=channel), NOW)
        assert isinstance(decision, Permit), decision
        assert decision.valid_until == until


ON_RECIPIENTS = """\
controller: {name: Acme GmbH}
notices:
  nl: {version: 1, text: {en: {title: Newsletter, body: "Yes."}}}
  ads: {version: 2, change: extends, adds: {recipients: [newco]}, text: {en: {title: Ads, body: "Yes."}}}
purposes:
  offers: {class: marketing, actions: [send], basis: {default: contract}, channels: [post]}
  orders: {class: transactional, actions: [send], basis: {default: contract}, channels: [post], exempt: [objection]}
  guess: {actions: [profile], basis: {default: contract}, serves: offers}
  deep: {actions: [profile], basis: {default: legitimate_interest}, serves: guess, exempt: [objection]}
  ads: {actions: [share, use], basis: {default: consent}, recipients: [newco, old], notice: ads, activity: advertising}
  shown: {actions: [use], basis: {default: opt_out}, activity: advertising}
  li: {actions: [use], basis: {default: legitimate_interest}, notice: nl}
"""
CALIFORNIA = (row("US-CA", "age_of_sale", 16), row("US-CA", "age_of_consent", 13), row("DE", "age_of_consent", 16))


def answered(state: DataSubjectState, question: Question) -> tuple[str, str]:
    decision = evaluate(compiled(ON_RECIPIENTS, law=CALIFORNIA), state, question, NOW)
    return type(decision).__name__, decision.reasons[0].reason.code


@pytest.mark.parametrize(
    ("question", "objected_to"),
    [
        (Question(action=Action.SEND, purpose="offers", channel=Channel.POST), "offers"),
        (Question(action=Action.SEND, purpose="orders", channel=Channel.POST, message_class=MessageClass.MARKETING), "orders"),
        (Question(action=Action.PROFILE, purpose="guess"), "offers"),
        (Question(action=Action.PROFILE, purpose="deep"), "offers"),
        (Question(action=Action.PROFILE, purpose="deep"), "deep"),
    ],
    ids=["marketing", "mixed content", "serves marketing", "serves what serves it", "its own"],
)  # fmt: skip
def test_an_objection_to_marketing_is_absolute_whatever_basis_it_claims(question: Question, objected_to: str) -> None:
    state = DataSubjectState(consents={objected_to: (event("object"),)})
    assert answered(state, question) == ("Deny", "objection.recorded")
    assert answered(DataSubjectState(), question)[0] == "Permit"


def test_an_objection_stops_no_contract_that_is_not_marketing() -> None:
    state = DataSubjectState(consents={"orders": (event("object"),)})
    question = Question(action=Action.SEND, purpose="orders", channel=Channel.POST)
    assert answered(state, question) == ("Permit", "basis.contract")


@pytest.mark.parametrize(
    ("born", "expected"),
    [
        ("2016-01-01", ("Deny", "data_subject.minor_no_guardian")),
        ("2012-01-01", ("Deny", "consent.missing")),
        ("2010-01-01", ("Permit", "basis.opt_out_regime")),
    ],
)
def test_targeted_advertising_to_a_child_takes_a_consent_as_a_sale_does(born: str, expected: tuple[str, str]) -> None:
    state = DataSubjectState(jurisdiction="US-CA", birth_date=born)
    assert answered(state, Question(action=Action.USE, purpose="shown")) == expected


@pytest.mark.parametrize(
    ("born", "purpose", "expected"),
    [
        ("2010-01-01", "ads", ("Permit", "consent.granted")),
        ("2015-01-01", "ads", ("Deny", "data_subject.minor_no_guardian")),
        ("2010-01-01", "li", ("Permit", "consent.granted")),
        ("2015-01-01", "li", ("Permit", "basis.legitimate_interest")),
    ],
    ids=["old enough", "corrected to a child's", "another basis", "another basis, a child's"],
)
def test_a_grant_holds_only_if_the_person_was_old_enough_by_the_birth_date_that_is_known_now(
    born: str, purpose: str, expected: tuple[str, str]
) -> None:
    grant = event(notice="ads@2" if purpose == "ads" else "nl@1", age_of_consent=16)
    state = DataSubjectState(jurisdiction="DE", birth_date=born, consents={purpose: (grant,)})
    assert answered(state, Question(action=Action.USE, purpose=purpose)) == expected


@pytest.mark.parametrize(("notice", "allowed"), [("ads@1", ["old"]), ("ads@2", ["newco", "old"]), (None, ["newco", "old"])])  # fmt: skip
def test_who_was_added_to_a_notice_gets_nothing_by_an_older_grant(notice: str | None, allowed: list[str]) -> None:
    state = DataSubjectState(consents={"ads": (event(notice=notice),)})
    first = policy_of(ON_RECIPIENTS.replace("version: 2, change: extends, adds: {recipients: [newco]}", "version: 1"))
    policy = compiled(ON_RECIPIENTS, earlier=stamped(first, [], 0))
    decision = evaluate(policy, state, Question(action=Action.SHARE, purpose="ads"), NOW)
    assert isinstance(decision, Permit), decision
    assert [one.properties for one in decision.obligations] == [{"allow": allowed}]


def test_an_error_in_a_rule_denies_in_the_place_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    restriction = Fact("r", "data_subject.restricted", NOW - DAY)
    state = DataSubjectState(jurisdiction="DE", birth_date="2015-01-01", restriction=restriction)
    question = Question(action=Action.SEND, purpose="both", channel=Channel.EMAIL, every_reason=True)
    monkeypatch.setattr("volenti.core.decision._Case._consent_binds", lambda _: 1 / 0)

    assert codes(state, question) == ["system.evaluation_error", "system.evaluation_error", "address.missing"]
    traced = {one.step: one.reasons for one in explain(POLICY, state, question, NOW)}
    assert (traced["data_subject"], traced["basis"]) == (("system.evaluation_error",), ("system.evaluation_error",))
    assert traced["address"] == ("address.missing",)


def test_an_answer_changes_when_a_purpose_that_trains_for_it_loses_its_consent() -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
notices: {nl: {version: 1, text: {en: {title: Newsletter, body: "Yes."}}}}
purposes:
  shop: {actions: [use], basis: {default: contract}}
  model: {actions: [train], basis: {default: consent}, notice: nl, serves: shop}
"""
    )
    state = DataSubjectState(consents={"model": (event(valid_until=NOW + 1000),)})
    decision = evaluate(policy, state, Question(action=Action.USE, purpose="shop"), NOW)
    assert (type(decision), decision.valid_until) == (Permit, NOW + 1000)


def test_a_policy_whose_law_has_changed_by_our_clock_answers_for_no_time() -> None:
    policy = msgspec.structs.replace(POLICY, changes_at_ms=NOW - 1)
    assert (
        evaluate(policy, DataSubjectState(), Question(action=Action.USE, purpose="plain"), NOW).valid_until == NOW + 1
    )
