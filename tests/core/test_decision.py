"""The check answers as the table of cases says, and keeps its promises for every history and every question.

The cases are in `vectors/decisions.yaml`, in a form that a runner over HTTP can play too. Of the design's cases these
steps answer PC-01 to 06, 08 to 10, 30, 31, 37, 42, 48 to 50 and 52; of PC-12, 25, 27, 29, 45 to 47 the part that does
not need a restriction of processing, a signal, a database, a log, caps or managed addresses. Other work covers
PC-07 (double opt-in), 11, 32 (erasure, identifiers), 13 to 16, 53 (suppressions, channels), 17 to 21, 38, 40, 41
(timing, pauses), 22 to 24, 39, 44 (frequency), 26, 28, 33 to 36, 43 (caches, audiences, permits, log, AuthZEN, batch)
and 51 (notices that extend).
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volenti.core.admission import Admitted, Choice, Command, Facts, Refusal, ShownOffer, admit
from volenti.core.consent import ConsentEvent, ConsentKind
from volenti.core.data_subject import EMPTY, Act, ConsentRecorded, DataSubjectState, Entry, Evidence, evolve, fold
from volenti.core.decision import SOUND, TTL_MS, Decision, Deny, Permit, Question, Situation, evaluate, remedies
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.document import Action, Channel, LawfulBasis, MessageClass, Policy
from volenti.core.policy.lint import lint
from volenti.core.policy.notice import PublishedNotice, newly_published, notice_hash
from volenti.core.reason import REASONS, STEPS

TABLE: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "vectors" / "decisions.yaml").read_text(encoding="utf-8")
)
DEFAULTS = TABLE["defaults"]
CASES: list[dict[str, Any]] = TABLE["cases"]


def at(text: str) -> int:
    """The milliseconds of an RFC 3339 instant."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def parsed(document: dict[str, Any]) -> Policy:
    linted = lint(json.dumps(document))
    assert linted.policy is not None, linted.findings
    return linted.policy


def published() -> CompiledPolicy:
    """The policy of the table, after all the publications before it."""
    policy = parsed(TABLE["policy"])
    history: list[PublishedNotice] = []
    for one in TABLE["earlier"]:
        changed = json.loads(json.dumps(TABLE["policy"]))
        notice = changed["notices"][one["notice"]]
        notice |= {"version": one["version"], "change": one["change"]}
        notice["text"]["en"]["body"] = one["body"]
        history += _stamped(parsed(changed), history, one["at"])
    history += _stamped(policy, history, TABLE["published_at"])
    return compile_policy(policy, history, None, 0)


def _stamped(policy: Policy, history: list[PublishedNotice], when: str) -> list[PublishedNotice]:
    moment = datetime.fromisoformat(when)
    new = newly_published(policy.notices, history)
    return [msgspec.structs.replace(notice, published_at=moment) for notice in new]


POLICY, SAME_POLICY = published(), published()
NOW = at(DEFAULTS["question"]["at"])


# --- the table ----------------------------------------------------------------------------------------------------


class Story:
    """A case as the core plays it: what was recorded by when, and the names of the entries."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.state, self.names, self.known = EMPTY, dict[str, str](), False
        person = case.get("person", DEFAULTS["person"])
        self.to_come = [DEFAULTS["event"] | event for event in case.get("events", [])]
        if person is not None:
            self.to_come.insert(0, {"facts": person, "at": DEFAULTS["person_at"], "actor": "operator"})
        times = [at(event["at"]) for event in self.to_come]
        assert times == sorted(times), "events are listed in the order in which they are sent"

    def until(self, now: int) -> None:
        """Play what was sent up to an instant, itself included."""
        while self.to_come and at(self.to_come[0]["at"]) <= now:
            self._send(self.to_come.pop(0))

    def _send(self, event: dict[str, Any]) -> None:
        now = at(event["at"])
        command = _command(event, now)
        number = len(self.names)
        admission = admit(command, self.state, POLICY, now, [f"{number}.facts", f"{number}.choice"])
        if "refused" in event:
            assert isinstance(admission, Refusal)
            assert event["refused"] == admission.code
            return
        assert isinstance(admission, Admitted), admission
        for entry, obstacle in zip(admission.entries, admission.obstacles, strict=True):
            assert event.get("applied", True) is (obstacle is None)
            self.names[entry.id] = event.get("as", f"entry {number}")
            self.known = True
        self.state = fold([Entry(entry.id, now, entry.event) for entry in admission.entries], self.state)
        assert self.state == admission.state


def _command(event: dict[str, Any], now: int) -> Command:
    if "facts" in event:
        return Command(actor=event["actor"], component="test", facts=Facts(**event["facts"]))
    grant = event["kind"] == "grant"
    notice = event.get("notice", DEFAULTS["notices"].get(event["purpose"])) if grant else None
    choice = Choice(
        kind=event["kind"],
        purpose=event["purpose"],
        channels=tuple(event.get("channels", ())),
        notice=notice,
        claimed_at=_member(event, "occurred_at"),
        valid_from=_member(event, "valid_from"),
        valid_until=_member(event, "valid_until"),
    )
    authenticated, confirmed = (
        Act("test", at(event[name])) if name in event else None for name in ("authentication", "confirmation")
    )
    offer = ShownOffer(
        id=f"offer {event['at']} {event['purpose']}",
        issued_at=now - 30_000,
        notices=frozenset((notice or "",)),
        purposes=frozenset((event["purpose"],)),
        preset=frozenset(),
    )
    return Command(
        actor=event["actor"],
        component="test",
        choices=(choice,),
        method=event["method"],
        surface=event["surface"],
        evidence=Evidence(authentication=authenticated, confirmation=confirmed),
        offer=offer if grant and event["shown"] else None,
    )


def _member(event: dict[str, Any], name: str) -> int | None:
    return at(event[name]) if name in event else None


def _question(asked: dict[str, Any], *, every_reason: bool) -> Question:
    supported = asked.get("supported_obligations")
    return Question(
        action=Action(asked["action"]),
        purpose=asked["purpose"],
        channel=None if asked["channel"] is None else Channel(asked["channel"]),
        topic=asked.get("topic"),
        message_class=MessageClass(asked["message_class"]) if "message_class" in asked else None,
        jurisdiction=asked.get("jurisdiction"),
        supported_obligations=None if supported is None else frozenset(supported),
        every_reason=every_reason,
    )


def _answer(decision: Decision, story: Story, purpose: str) -> dict[str, Any]:
    """The decision in the words of the table."""
    reasons = decision.reasons
    notice = POLICY.purposes[purpose].notice if purpose in POLICY.purposes else None
    retry = [given.retry_at for given in reasons if given.retry_at is not None]
    return {
        "decision": "permit" if isinstance(decision, Permit) else "deny",
        "reason": reasons[0].reason.code,
        "reasons": [given.reason.code for given in reasons],
        "evidence": [story.names[given.event.entry] for given in reasons if given.event is not None],
        "obligations": [one.type for one in decision.obligations] if isinstance(decision, Permit) else [],
        "remedies": remedies(decision, notice, purpose),
        "valid_until": decision.valid_until,
        "retry_at": min(retry, default=None),
        "determinate": not isinstance(decision, Deny) or decision.determinate,
        "known": story.known,
    }


def _expected(expect: dict[str, Any]) -> dict[str, Any]:
    expected = expect | {name: at(expect[name]) for name in ("valid_until", "retry_at") if name in expect}
    if "remedies" in expected:
        expected["remedies"] = [one | {"at": at(one["at"])} if "at" in one else one for one in expected["remedies"]]
    return expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_each_case_of_the_table_is_answered_as_it_says(case: dict[str, Any]) -> None:
    story = Story(case)
    for position, ask in enumerate(case["asks"]):
        asked = DEFAULTS["question"] | ask
        now = at(asked["at"])
        story.until(now)
        ground = dict(asked.get("situation", {}))
        policy = None if ground.pop("policy", None) == "missing" else POLICY
        told = asked.get("every_reason", False)

        short, full = (
            evaluate(policy, story.state, _question(asked, every_reason=every), now, Situation(**ground))
            for every in (False, True)
        )
        answer = _answer(full if told else short, story, asked["purpose"])
        expected = _expected(ask["expect"])
        assert expected == {name: answer[name] for name in expected}, f"{case['title']}, question {position}"
        assert short.reasons[0] == full.reasons[0]
        assert type(short) is type(full)


def test_every_case_has_a_name_of_its_own_and_asks_in_the_order_of_time() -> None:
    ids = [case["id"] for case in CASES]
    assert sorted(ids) == sorted(set(ids))

    for case in CASES:
        times = [at((DEFAULTS["question"] | ask)["at"]) for ask in case["asks"]]
        assert times == sorted(times), case["id"]


def test_the_table_has_every_reason_that_the_core_can_give() -> None:
    expected = {code for case in CASES for ask in case["asks"] for code in _codes(ask["expect"])}
    elsewhere = {"system.evaluation_error", "system.deadline_exceeded"}  # below; and by the flow that keeps the time

    assert set(REASONS) - elsewhere == expected


def _codes(expect: dict[str, Any]) -> list[str]:
    codes: list[str] = expect.get("reasons", [])
    return [*codes, *([expect["reason"]] if "reason" in expect else [])]


# --- where a rule fails -------------------------------------------------------------------------------------------

SEND = Question(action=Action.SEND, purpose="nl", channel=Channel.EMAIL)
GRANT = ConsentEvent(
    entry="given", kind="grant", occurred_at=NOW - 1000, recorded_at=NOW - 1000, actor="data_subject", notice="nl@3",
    grade=2,
)  # fmt: skip


def having(*events: ConsentEvent) -> DataSubjectState:
    return DataSubjectState(consents={"nl": events})


@pytest.mark.parametrize("every_reason", [False, True])
@pytest.mark.parametrize(
    "state",
    [
        having(msgspec.structs.replace(GRANT, notice="nl@latest")),
        having(msgspec.structs.replace(GRANT, notice="nl@")),
        having(msgspec.structs.replace(GRANT, occurred_at=10**30)),
        DataSubjectState(consents=None),  # type: ignore[arg-type]
        None,
    ],
)
def test_a_rule_that_raises_denies_and_says_so(state: Any, every_reason: bool) -> None:
    decision = evaluate(POLICY, state, msgspec.structs.replace(SEND, every_reason=every_reason), NOW)

    assert isinstance(decision, Deny)
    assert [given.reason.code for given in decision.reasons] == ["system.evaluation_error"]
    assert not decision.determinate
    assert decision.valid_until == NOW + 1
    assert remedies(decision, "nl", "nl") == [{"type": "retry", "after_ms": 1000}]


def test_a_policy_that_contradicts_itself_denies() -> None:
    purpose = msgspec.structs.replace(POLICY.purposes["ana"], terms={})
    broken = msgspec.structs.replace(POLICY, purposes={"ana": purpose})

    decision = evaluate(broken, having(), Question(action=Action.USE, purpose="ana", jurisdiction="DE"), NOW)
    assert [given.reason.code for given in decision.reasons] == ["system.evaluation_error"]


# --- promises for every history -----------------------------------------------------------------------------------

DAY = 86_400_000
SPAN = 730 * DAY
PURPOSES = sorted(POLICY.purposes)
KINDS: tuple[ConsentKind, ...] = get_args(ConsentKind)
PLACES = (None, "DE", "FR", "US", "US-CA", "EU", "BR")

instants = st.sampled_from((-SPAN - 1, -SPAN, -SPAN + 1, -SPAN + 30_000, -5 * DAY, -2, -1, 0)).map(NOW.__add__)
edges = st.none() | st.sampled_from((-5 * DAY, -1, 0, 1, 20_000, 200_000, 400_000)).map(NOW.__add__)
entries = st.builds(
    Entry,
    st.integers(0, 10**9).map(str),
    st.just(NOW),
    st.builds(
        ConsentRecorded,
        kind=st.sampled_from(("grant", *KINDS)),
        purpose=st.sampled_from(("nl", "proved", "proved_us", "ads", "mixed", "ana", "ord")),
        channels=st.sampled_from(((), ("email",), ("sms",), ("email", "sms"))),
        notice=st.sampled_from((None, "nl@1", "nl@3", "ads@1")),
        evidence_grade=st.integers(0, 4),
        minimum_grade=st.integers(0, 3),
        evidence=st.none() | st.builds(Evidence, confirmation=st.builds(Act, st.just("link"), instants)),
        occurred_at=instants,
        claimed_at=st.just(NOW),
        valid_from=edges,
        valid_until=edges,
        actor=st.sampled_from(("data_subject", "guardian", "operator", "import", "system")),
        component=st.just("test"),
    ),
)
histories = st.lists(entries, max_size=4)
restrictions = st.builds(
    lambda entry, kind: msgspec.structs.replace(entry, event=msgspec.structs.replace(entry.event, kind=kind)),
    entries,
    st.sampled_from(("deny", "withdraw", "object")),
)
questions = st.builds(
    Question,
    action=st.sampled_from((Action.SEND, Action.USE, Action.SHARE, Action.SELL, Action.PROFILE)),
    purpose=st.sampled_from([*PURPOSES, "nope"]) | st.sampled_from(("nl", "ads", "mixed", "ana")),
    channel=st.none() | st.sampled_from((Channel.EMAIL, Channel.SMS, Channel.POST)),
    topic=st.sampled_from((None, None, "weekly", "nope")),
    message_class=st.none() | st.sampled_from(MessageClass),
    jurisdiction=st.sampled_from(PLACES),
    supported_obligations=st.sampled_from((None, None, frozenset[str](), frozenset(("include_unsubscribe",)))),
    every_reason=st.booleans(),
)


def state_of(history: list[Entry], place: str | None) -> DataSubjectState:
    return fold(history, msgspec.structs.replace(EMPTY, jurisdiction=place or ""))


def sensible(question: Question) -> Question:
    """The question with what its purpose covers, so that it is about the person's choices."""
    purpose = POLICY.purposes.get(question.purpose)
    if purpose is None:
        return question
    action = question.action if question.action in purpose.actions else min(purpose.actions)
    channel = question.channel if question.channel in purpose.channels else None
    return msgspec.structs.replace(question, action=action, channel=channel, topic=None, message_class=None)


def one_more_restriction_never_permits(
    history: list[Entry], restriction: Entry, question: Question, place: str | None
) -> None:
    state = state_of(history, place)
    before = evaluate(POLICY, state, question, NOW)
    after = evaluate(POLICY, evolve(state, restriction), question, NOW)

    assert isinstance(before, Permit) or isinstance(after, Deny)


def relayed(kind: ConsentKind, at_day: int, **members: Any) -> Entry:
    event = ConsentRecorded(
        kind=kind, purpose="nl", occurred_at=NOW - 10 * DAY + at_day * DAY, claimed_at=NOW, actor="import",
        component="test", **members,
    )  # fmt: skip
    return Entry(f"{kind} {at_day}", NOW, event)


@settings(deadline=None)
@given(histories, restrictions, questions, st.sampled_from(PLACES))
def test_one_more_restriction_never_turns_a_deny_into_a_permit_for_any_question(
    history: list[Entry], restriction: Entry, question: Question, place: str | None
) -> None:
    one_more_restriction_never_permits(history, restriction, question, place)


@settings(deadline=None)
@given(histories, restrictions, questions.map(sensible), st.sampled_from(PLACES))
@example(
    [
        relayed("grant", 2),
        relayed("withdraw", 4),
        relayed("grant", 6, evidence_grade=3, evidence=Evidence(confirmation=Act("link", NOW - 7 * DAY))),
    ],
    relayed("withdraw", 1),
    SEND,
    "DE",
)
def test_one_more_restriction_never_turns_a_deny_into_a_permit_where_choices_decide(
    history: list[Entry], restriction: Entry, question: Question, place: str | None
) -> None:
    one_more_restriction_never_permits(history, restriction, question, place)


@settings(deadline=None)
@given(histories, questions, st.sampled_from(PLACES), st.builds(Situation, *[st.booleans()] * 3))
def test_unsound_ground_never_permits(
    history: list[Entry], question: Question, place: str | None, situation: Situation
) -> None:
    decision = evaluate(POLICY, state_of(history, place), question, NOW, situation)

    assert situation == SOUND or isinstance(decision, Deny)
    assert (situation == SOUND) is (isinstance(decision, Permit) or decision.determinate)


@settings(deadline=None)
@given(histories, questions, st.sampled_from(PLACES))
def test_equal_arguments_give_equal_answers(history: list[Entry], question: Question, place: str | None) -> None:
    first = evaluate(POLICY, state_of(history, place), question, NOW)
    evaluate(POLICY, EMPTY, SEND, NOW + DAY)
    second = evaluate(SAME_POLICY, state_of(list(history), place), msgspec.structs.replace(question), NOW)

    assert first == second
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


@settings(deadline=None)
@given(
    st.none() | st.just(POLICY),
    histories,
    questions,
    st.integers(-(2**53), 2**53),
)
def test_every_question_is_answered(
    policy: CompiledPolicy | None, history: list[Entry], question: Question, now: int
) -> None:
    decision = evaluate(policy, state_of(history, None), question, now)

    assert decision.valid_until > now
    assert decision.reasons
    effect = "permit" if isinstance(decision, Permit) else "deny"
    assert {effect} == {given.reason.effect for given in decision.reasons}


@settings(deadline=None)
@given(histories, questions | questions.map(sensible), st.sampled_from(PLACES))
def test_a_permit_rests_on_an_entry_or_on_a_basis_other_than_consent(
    history: list[Entry], question: Question, place: str | None
) -> None:
    decision = evaluate(POLICY, state_of(history, place), question, NOW)
    if isinstance(decision, Deny):
        return

    (given,) = decision.reasons
    if given.reason.code == "consent.granted":
        assert given.event is not None
        assert given.event.kind == "grant"
        assert given.event.covers(question.channel) or question.channel is None
        assert given.event in state_of(history, place).on(question.purpose)
    else:
        assert given.reason.code.startswith("basis.")
        assert given.event is None


@settings(deadline=None)
@given(histories, questions.map(sensible), st.sampled_from(PLACES), st.integers(0, 300_000))
def test_an_answer_holds_until_the_instant_that_it_names(
    history: list[Entry], question: Question, place: str | None, later: int
) -> None:
    state = state_of(history, place)
    decision = evaluate(POLICY, state, question, NOW)
    assert NOW < decision.valid_until <= NOW + TTL_MS.get(question.action, 300_000)

    for then in {min(NOW + later, decision.valid_until - 1), decision.valid_until - 1}:
        again = evaluate(POLICY, state, question, then)
        assert type(decision) is type(again)
        assert decision.reasons == again.reasons


@settings(deadline=None)
@given(histories, questions.map(sensible), st.sampled_from(PLACES))
def test_a_reason_that_time_lifts_is_gone_at_its_instant_and_not_before(
    history: list[Entry], question: Question, place: str | None
) -> None:
    state = state_of(history, place)
    full = msgspec.structs.replace(question, every_reason=True)
    decision = evaluate(POLICY, state, full, NOW)
    for given_reason in decision.reasons:
        assert given_reason.reason.time_lifts is (given_reason.retry_at is not None)
        if given_reason.retry_at is not None:
            assert given_reason.retry_at > NOW
            assert given_reason in evaluate(POLICY, state, full, given_reason.retry_at - 1).reasons
            assert given_reason not in evaluate(POLICY, state, full, given_reason.retry_at).reasons


@settings(deadline=None)
@given(histories, questions, st.sampled_from(PLACES))
def test_decision_and_reason_are_the_same_however_much_is_told(
    history: list[Entry], question: Question, place: str | None
) -> None:
    state = state_of(history, place)
    short, full = (
        evaluate(POLICY, state, msgspec.structs.replace(question, every_reason=every), NOW) for every in (False, True)
    )

    assert type(short) is type(full)
    assert short.reasons[0] == full.reasons[0]
    assert short.valid_until == full.valid_until
    assert {given.reason.code for given in short.reasons} <= {given.reason.code for given in full.reasons}
    order = [(STEPS.index(given.reason.step), given.reason.number) for given in full.reasons]
    assert order == sorted(set(order))


@settings(deadline=None)
@given(histories, questions.map(sensible), st.sampled_from(PLACES[1:]), st.sampled_from(PLACES[1:]))
def test_what_the_caller_knows_of_the_place_only_tightens(
    history: list[Entry], question: Question, place: str, stated: str
) -> None:
    state = state_of(history, place)
    own = evaluate(POLICY, state, msgspec.structs.replace(question, jurisdiction=None), NOW)
    both = evaluate(POLICY, state, msgspec.structs.replace(question, jurisdiction=stated), NOW)

    assert isinstance(own, Permit) or isinstance(both, Deny)


def test_the_stricter_basis_denies_all_that_a_laxer_one_denies() -> None:
    """Without a choice of the person's: what silence means, from the strictest basis to the laxest."""
    order = ("consent", "legitimate_interest", "opt_out", "contract", "legal_obligation")

    answers = []
    for basis in order:
        ana = msgspec.structs.replace(POLICY.document.purposes["ana"], basis={"default": LawfulBasis(basis)})
        document = msgspec.structs.replace(POLICY.document, purposes={"ana": ana})
        decision = evaluate(
            compile_policy(document, (), None, 0),
            EMPTY,
            Question(action=Action.USE, purpose="ana", jurisdiction="DE"),
            NOW,
        )
        answers.append(decision.reasons[0].reason.code)
    assert answers == [
        "consent.missing",
        "basis.legitimate_interest",
        "basis.opt_out_regime",
        "basis.contract",
        "basis.legal_obligation",
    ]


def test_the_notices_of_the_table_are_what_a_publisher_would_have_published() -> None:
    assert POLICY.required_notice_version["nl"] == 2
    assert sorted(POLICY.published) == ["ads@1", "nl@1", "nl@2", "nl@3"]
    assert POLICY.published["nl@3"].hash == notice_hash("nl", POLICY.document.notices["nl"])
