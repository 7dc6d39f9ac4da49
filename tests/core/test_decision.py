"""The check keeps its promises for every history and every question (decisions of the design: the invariants).

What each rule answers is in the tables of cases (`test_cases`); here is what holds of all answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from made_policies import LAW, compiled, row, stamped
from tables import Table, at
from volenti.core.consent import RESTRICTIVE, ConsentEvent, ConsentKind
from volenti.core.data_subject import (
    EMPTY,
    Act,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Evidence,
    Fact,
    ProcessingRestricted,
    Relation,
    evolve,
    fold,
)
from volenti.core.decision import (
    MOST_ALTERNATIVES,
    MOST_ENDS,
    SOUND,
    TTL_MS,
    Decision,
    Deny,
    Permit,
    Question,
    Situation,
    alternatives,
    evaluate,
    explain,
    ledger_kind,
    remedies,
)
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.document import Action, Channel, EvidenceGrade, LawfulBasis, MessageClass, RelationType
from volenti.core.policy.duration import Duration, parse_duration
from volenti.core.policy.notice import PublishedNotice, notice_hash
from volenti.core.policy.premises import MOST_PREMISES
from volenti.core.policy.profile import Profiles
from volenti.core.reason import STEPS

TABLE = Table("decisions.yaml")
NOW = at(TABLE.defaults["question"]["at"])
DAY = 86_400_000


def duration(text: str) -> Duration:
    parsed = parse_duration(text)
    assert parsed is not None
    return parsed


MADE_UP_LAW = (
    row("DE", "age_of_consent", 16),
    row("DE", "human_review", True),
    row("FR", "age_of_consent", 15),
    row("FR", "consent_expiry", duration("P6M")),
    row("US", "show_notice", True),
    row("US-CA", "age_of_consent", 13),
    row("US-CA", "age_of_sale", 16),
    row("BR", "minors_prohibited_below", 18),
)


def published() -> CompiledPolicy:
    """The policy of the table, after all the publications before it, under a made-up law with rules on ages."""
    history: list[PublishedNotice] = []
    for when, policy in TABLE.publications({}):
        history += stamped(policy, history, at(when))
    return compile_policy(
        msgspec.structs.replace(policy, jurisdictions=LAW), history, Profiles(version=LAW, rows=MADE_UP_LAW), NOW
    )


POLICY, SAME_POLICY = published(), published()

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
    assert remedies(POLICY, EMPTY, SEND, decision, NOW) == ({"type": "retry", "after_ms": 1000},)


def test_a_policy_that_contradicts_itself_denies() -> None:
    purpose = msgspec.structs.replace(POLICY.purposes["ana"], terms={})
    broken = msgspec.structs.replace(POLICY, purposes={"ana": purpose})

    decision = evaluate(broken, having(), Question(action=Action.USE, purpose="ana", jurisdiction="DE"), NOW)
    assert [given.reason.code for given in decision.reasons] == ["system.evaluation_error"]


# --- what is told with a permit -----------------------------------------------------------------------------------


def obliged(state: DataSubjectState, question: Question) -> list[str]:
    decision = evaluate(POLICY, state, question, NOW)
    assert isinstance(decision, Permit), decision
    return [one.type for one in decision.obligations]


@pytest.mark.parametrize(
    ("kind", "notice", "told"),
    [
        ("acknowledge", "nl@3", True),
        ("acknowledge", "nl@2", True),
        ("acknowledge", "nl@1", False),
        ("acknowledge", None, False),
        ("acknowledge", "ads@1", False),
        ("grant", "nl@3", True),
        ("confirm", "nl@3", True),
        ("renew", "nl@3", True),
        ("request", "nl@3", False),
        ("invalidate", "nl@3", False),
    ],
)
def test_a_notice_is_shown_until_the_person_saw_a_version_that_still_stands(
    kind: ConsentKind, notice: str | None, told: bool
) -> None:
    seen = msgspec.structs.replace(GRANT, kind=kind, notice=notice, grade=0)
    state = DataSubjectState(jurisdiction="US", consents={"proved_us": (seen,)})
    question = Question(action=Action.USE, purpose="proved_us")

    assert obliged(state, question) == ([] if told else ["show_notice"])
    decision = evaluate(POLICY, EMPTY, msgspec.structs.replace(question, jurisdiction="US"), NOW)
    assert isinstance(decision, Permit)
    assert [one.properties for one in decision.obligations] == [{"notice": "nl@3"}]


def test_an_obligation_says_what_it_takes() -> None:
    kept = fold([entry("grant", 10, purpose="kept", notice="ads@1")])
    retain = evaluate(POLICY, kept, Question(action=Action.RETAIN, purpose="kept"), NOW)
    share = evaluate(POLICY, EMPTY, Question(action=Action.SHARE, purpose="partners", jurisdiction="DE"), NOW)

    assert isinstance(retain, Permit)
    assert [(one.type, one.properties, one.mandatory) for one in retain.obligations] == [
        ("delete_by", {"at": NOW + 355 * DAY}, True)
    ]
    assert isinstance(share, Permit)
    assert [one.properties for one in share.obligations] == [{"allow": ["v1", "v2"]}]
    mail = evaluate(POLICY, having(GRANT), SEND, NOW)
    assert isinstance(mail, Permit)
    assert [(one.type, one.properties) for one in mail.obligations] == [
        ("include_unsubscribe", {"text_key": "unsubscribe"})
    ]


def test_a_guardians_grant_ends_at_the_age_of_the_channel_that_is_asked_about() -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
notices: {nl: {version: 3, text: {en: {title: Newsletter, body: What is new.}}}}
purposes: {nl: {class: marketing, actions: [send], basis: {default: consent}, channels: [email, sms], notice: nl}}
""",
        law=[row("FR", "age_of_consent.email_marketing", 15), row("FR", "age_of_consent.sms_marketing", 16)],
    )
    by_parent = msgspec.structs.replace(GRANT, actor="guardian")
    state = DataSubjectState(jurisdiction="FR", birth_date="2011-03-01", consents={"nl": (by_parent,)})
    codes = {
        channel: evaluate(policy, state, msgspec.structs.replace(SEND, channel=channel), NOW).reasons[0].reason.code
        for channel in (Channel.EMAIL, Channel.SMS)
    }

    assert codes == {Channel.EMAIL: "consent.expired", Channel.SMS: "consent.granted"}


@pytest.mark.parametrize(("own", "stated"), [("UK", None), ("", "ZZ"), ("UK", "FR")])
def test_a_child_of_a_place_that_is_no_code_is_a_child_where_any_market_says_so(own: str, stated: str | None) -> None:
    child = DataSubjectState(jurisdiction=own, birth_date="2010-08-01", consents={"nl": (GRANT,)})  # 15; adult in FR
    parents = msgspec.structs.replace(child, consents={"nl": (msgspec.structs.replace(GRANT, actor="guardian"),)})
    question = msgspec.structs.replace(SEND, jurisdiction=stated)
    codes = [evaluate(POLICY, state, question, NOW).reasons[0].reason.code for state in (child, parents)]

    assert codes == ["data_subject.minor_no_guardian", "consent.expired" if stated == "FR" else "consent.granted"]


@pytest.mark.parametrize("kind", get_args(ConsentKind))
def test_data_are_kept_from_the_last_permission_on_whatever_its_kind(kind: ConsentKind) -> None:
    state = DataSubjectState(consents={"kept": (msgspec.structs.replace(GRANT, kind=kind, notice=None),)})
    decision = evaluate(POLICY, state, Question(action=Action.USE, purpose="kept", every_reason=True), NOW + 365 * DAY)

    elapsed = "retention.elapsed" in [given_.reason.code for given_ in decision.reasons]
    assert elapsed is (kind in ("grant", "confirm", "renew"))


def test_an_explanation_tells_what_each_step_looked_at_in_codes_instants_and_entries() -> None:
    restricted = Fact("dispute", "data_subject.restricted", NOW - DAY)
    request = msgspec.structs.replace(GRANT, entry="asked", kind="request", notice="nl@3", occurred_at=NOW)
    state = DataSubjectState(
        jurisdiction="DE", consents={"nl": (GRANT, request)}, restriction=restricted,
        relations={"purchase": Fact("bought", "data_subject.updated", NOW - DAY)},
    )  # fmt: skip
    question = msgspec.structs.replace(SEND, channel=Channel.SMS, jurisdiction="FR", topic="nope")
    expiry = GRANT.occurred_at + 184 * DAY  # of the place: six months from July on, before the policy's 730 days

    traced = explain(POLICY, state, question, NOW, Situation(stale=True, clock_skewed=True))
    assert [(one.step, one.outcome, one.reasons, one.inputs) for one in traced] == [
        ("system", "denied", ("system.state_stale", "system.clock_skew"), {"unsound": ["stale", "clock_skewed"]}),
        ("request", "denied", ("request.topic_unknown",), {"purpose": "nl", "action": "send", "channel": "sms"}),
        ("data_subject", "denied", ("data_subject.processing_restricted",),
         {"restriction": "dispute", "age_of_consent": 16}),
        ("scope", "passed", (), {"jurisdictions": ["DE", "FR"], "kept_until": None}),
        ("objections", "passed", (), {"standing": "granted", "serves": None}),
        ("basis", "permitted", ("consent.granted",),
         {"binding": "consent", "standing": "granted", "decided_by": "given", "pending": "asked", "expires_at": expiry,
          "required_notice_version": 2, "minimum_evidence": "E0"}),
        ("address", "passed", (), {"addresses": "open"}),
        ("obligations", "passed", (), {"obligations": []}),
    ]  # fmt: skip


def test_an_explanation_of_a_purpose_that_nobody_knows_ends_there() -> None:
    nothing = msgspec.structs.replace(SEND, purpose="nope")

    assert [(one.step, one.outcome, one.reasons, one.inputs) for one in explain(POLICY, EMPTY, nothing, NOW)] == [
        ("system", "passed", (), {"unsound": []}),
        ("request", "denied", ("request.purpose_unknown",), {"purpose": "nope"}),
    ]


def test_what_an_answer_rests_on_has_the_kind_of_its_ledger_entry() -> None:
    assert ledger_kind(GRANT) == "consent.granted"
    assert ledger_kind(Fact("bought", "data_subject.updated", NOW)) == "data_subject.updated"


# --- promises for every history -----------------------------------------------------------------------------------

SPAN = 730 * DAY
PURPOSES = sorted(POLICY.purposes)
KINDS: tuple[ConsentKind, ...] = get_args(ConsentKind)
PLACES = (None, "DE", "FR", "US", "US-CA", "EU", "BR")
BIRTHS = ("2011-03-01", "2010-07-01", "2010-07-02", "2013-07-01", "2008-07-01", "1990-01-01")
"""Of whom is fifteen, sixteen since today and from tomorrow, thirteen, eighteen, and grown up at NOW."""
IDS = tuple("abcdef")

instants = st.sampled_from((-SPAN - 1, -SPAN, -SPAN + 1, -SPAN + 30_000, -200 * DAY, -5 * DAY, -3, -2, -1, 0)).map(
    NOW.__add__
)
edges = st.none() | st.sampled_from((-5 * DAY, -1, 0, 1, 20_000, 200_000, 400_000)).map(NOW.__add__)
said: dict[str, Any] = {"claimed_at": st.just(NOW), "component": st.just("test"), "occurred_at": instants}
choices = st.builds(
    ConsentRecorded,
    kind=st.sampled_from(("grant", "grant", *KINDS)),
    purpose=st.sampled_from(("nl", "doi", "proved", "proved_us", "ads", "mixed", "ana", "ord", "soft", "offers", "score", "kept", "service")),
    channels=st.sampled_from(((), ("email",), ("sms",), ("email", "sms"))),
    notice=st.sampled_from((None, "nl@1", "nl@3", "ads@1")),
    evidence_grade=st.integers(0, 4),
    minimum_grade=st.integers(0, 3),
    evidence=st.none() | st.builds(Evidence, confirmation=st.builds(Act, st.just("link"), instants)),
    age_of_consent=st.none() | st.integers(13, 18),
    names=st.none() | st.sampled_from(IDS),
    valid_from=edges,
    valid_until=edges,
    actor=st.sampled_from(("data_subject", "guardian", "operator", "import", "system")),
    **said,
)  # fmt: skip
relations = st.builds(Relation, st.sampled_from(RelationType), instants)
facts = st.builds(
    DataSubjectUpdated,
    birth_date=st.none() | st.sampled_from(BIRTHS),
    relations=st.lists(relations, max_size=2).map(tuple),
    actor=st.just("operator"),
    **said,
)
disputes = st.builds(ProcessingRestricted, lifted=st.booleans(), actor=st.just("data_subject"), **said)
events = choices | choices | choices | facts | disputes
entries = st.builds(Entry, st.sampled_from(IDS), st.just(NOW), events)
histories = st.lists(entries, max_size=5, unique_by=lambda entry: entry.id)
restrictions = st.builds(Entry, st.just("restriction"), st.just(NOW), st.builds(
    lambda choice, kind: msgspec.structs.replace(choice, kind=kind), choices, st.sampled_from(sorted(RESTRICTIVE)),
) | st.builds(ProcessingRestricted, actor=st.just("operator"), **said))  # fmt: skip
permissions = st.builds(Entry, st.just("void"), st.just(NOW), choices.filter(lambda one: one.kind not in RESTRICTIVE))
questions = st.builds(
    Question,
    action=st.sampled_from(Action),
    purpose=st.sampled_from([*PURPOSES, "nope"]) | st.sampled_from(("nl", "ads", "mixed", "ana", "soft", "offers", "kept")),
    channel=st.none() | st.sampled_from((Channel.EMAIL, Channel.SMS, Channel.POST)),
    topic=st.sampled_from((None, None, "weekly", "nope")),
    message_class=st.none() | st.sampled_from(MessageClass),
    jurisdiction=st.sampled_from(PLACES),
    data_categories=st.sampled_from(((), (), ("contact",), ("health",))),
    recipient=st.sampled_from((None, None, "v1", "v3")),
    region=st.sampled_from((None, None, "DE", "US-TX")),
    supported_obligations=st.sampled_from(
        (None, None, frozenset[str](), frozenset(("include_unsubscribe",)), frozenset(("include_unsubscribe", "delete_by")))
    ),
    every_reason=st.booleans(),
)  # fmt: skip
situations = st.builds(Situation, *[st.booleans()] * 5)


def sensible(question: Question) -> Question:
    """The question with what its purpose covers, so that it is about the person's choices."""
    purpose = POLICY.purposes.get(question.purpose)
    if purpose is None:
        return question
    action = question.action if question.action in purpose.actions else min(purpose.actions)
    channel = question.channel if question.channel in purpose.channels else None
    return msgspec.structs.replace(
        question, action=action, channel=channel, topic=None, message_class=None, data_categories=(), recipient=None,
        region=None,
    )  # fmt: skip


asked = questions | questions.map(sensible) | questions.map(sensible)


def state_of(history: Iterable[Entry], place: str | None) -> DataSubjectState:
    return fold(history, msgspec.structs.replace(EMPTY, jurisdiction=place or ""))


def entry(kind: ConsentKind, days_ago: float, *, name: str | None = None, **members: Any) -> Entry:
    """A choice of the person's own, at E2, so many days ago."""
    then = NOW - round(days_ago * DAY)
    filled = {"purpose": "nl", "actor": "data_subject", "evidence_grade": 2, **members}
    event = ConsentRecorded(kind=kind, occurred_at=then, claimed_at=then, component="test", **filled)
    return Entry(name or f"{kind} {days_ago}", NOW, event)


LINK = Evidence(confirmation=Act("link", NOW - 7 * DAY))
USE_OFFERS = Question(action=Action.SEND, purpose="offers")


@settings(deadline=None, max_examples=400)
@given(histories, restrictions, asked, st.sampled_from(PLACES))
@example(
    [
        entry("grant", 8, actor="import", evidence_grade=0),
        entry("withdraw", 6, actor="import"),
        entry("grant", 4, actor="import", evidence_grade=3, evidence=LINK),
    ],
    entry("withdraw", 9, actor="import"),
    SEND,
    "DE",
)
@example([entry("deny", 9), entry("grant", 5, actor="guardian")], entry("withdraw", 7, actor="guardian"), SEND, "DE")
@example(
    [
        entry("deny", 9, purpose="offers", channels=("email",)),
        entry("request", 5, purpose="offers", channels=("email",)),
    ],
    entry("withdraw", 3, purpose="offers", channels=("email",)),
    USE_OFFERS,
    "DE",
)
def test_one_more_restriction_never_turns_a_deny_into_a_permit(
    history: list[Entry], restriction: Entry, question: Question, place: str | None
) -> None:
    state = state_of(history, place)
    if isinstance(restriction.event, ProcessingRestricted):
        restriction = msgspec.structs.replace(
            restriction, event=msgspec.structs.replace(restriction.event, lifted=False)
        )
    before, after = (evaluate(POLICY, one, question, NOW) for one in (state, evolve(state, restriction)))

    assert isinstance(before, Permit) or isinstance(after, Deny)


@settings(deadline=None, max_examples=400)
@given(histories, permissions, asked, st.sampled_from(PLACES))
@example([], entry("grant", 400, name="void", purpose="kept"), Question(action=Action.USE, purpose="kept"), "DE")
def test_what_is_declared_void_permits_only_what_an_older_permission_carries(
    history: list[Entry], void: Entry, question: Question, place: str | None
) -> None:
    """To declare a permission void is a restriction, too: but the grant before it, if there is one, counts again."""
    assert isinstance(void.event, ConsentRecorded)
    state = state_of([*history, void], place)
    declaration = entry("invalidate", 0, name="declaration", purpose=void.event.purpose, names="void", actor="operator")
    before, after = (evaluate(POLICY, one, question, NOW) for one in (state, evolve(state, declaration)))

    if isinstance(before, Deny) and isinstance(after, Permit):
        (given_,) = after.reasons
        assert given_.reason.code == "consent.granted"
        assert isinstance(given_.event, ConsentEvent)
        assert given_.event.entry != "void"
        assert given_.event.occurred_at <= void.event.occurred_at


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_an_answer(
    history: list[Entry], question: Question, place: str | None, random: Any
) -> None:
    """Where the index does not break a tie: between equally restrictive choices of one instant, and between facts."""
    keys: dict[object, Entry] = {}
    for one in history:
        event = one.event
        if isinstance(event, ConsentRecorded):
            keys[event.purpose, event.occurred_at, event.kind in RESTRICTIVE] = one
        elif isinstance(event, DataSubjectUpdated) and event.birth_date is None:
            keys["facts", one.id] = msgspec.structs.replace(
                one, event=msgspec.structs.replace(event, relations=event.relations[:1])
            )
    distinct = list(keys.values())
    shuffled = random.sample(distinct, len(distinct))
    first, second = (evaluate(POLICY, state_of(some, place), question, NOW) for some in (distinct, shuffled))

    assert (type(first), first.valid_until) == (type(second), second.valid_until)
    assert [given_.reason for given_ in first.reasons] == [given_.reason for given_ in second.reasons]


@settings(deadline=None)
@given(histories, questions, st.sampled_from(PLACES), situations)
def test_unsound_ground_never_permits(
    history: list[Entry], question: Question, place: str | None, situation: Situation
) -> None:
    decision = evaluate(POLICY, state_of(history, place), question, NOW, situation)

    assert situation == SOUND or isinstance(decision, Deny)
    assert (situation == SOUND) is (isinstance(decision, Permit) or decision.determinate)


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES))
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
@given(histories, asked, st.sampled_from(PLACES))
def test_no_rule_fails_on_a_history_that_can_be(history: list[Entry], question: Question, place: str | None) -> None:
    """Else the promises of this page would hold for nothing: where a rule fails, everything is denied."""
    state = state_of(history, place)
    full = evaluate(POLICY, state, msgspec.structs.replace(question, every_reason=True), NOW)

    assert all(given_.reason.code != "system.evaluation_error" for given_ in full.reasons)
    assert remedies(POLICY, state, question, full, NOW) is not None


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES))
def test_a_permit_rests_on_an_entry_or_on_a_basis_other_than_consent(
    history: list[Entry], question: Question, place: str | None
) -> None:
    state = state_of(history, place)
    decision = evaluate(POLICY, state, question, NOW)
    if isinstance(decision, Deny):
        return

    (given_,) = decision.reasons
    if given_.reason.code == "consent.granted":
        assert isinstance(given_.event, ConsentEvent)
        assert given_.event.kind in ("grant", "confirm", "renew")
        assert question.channel is None or question.channel in (given_.event.channels or Channel)
        assert given_.event in state.on(question.purpose)
    elif given_.reason.code == "basis.soft_opt_in":
        assert given_.event in state.relations.values()
    else:
        assert given_.reason.code.startswith("basis.")
        assert given_.event is None


@settings(deadline=None, max_examples=300)
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
        if isinstance(decision, Permit) and isinstance(again, Permit):
            assert decision.obligations == again.obligations


@pytest.mark.parametrize("ahead", [1, 59_999])
def test_an_answer_is_not_kept_beyond_a_change_of_policy_or_law(ahead: int) -> None:
    state = having(GRANT)
    new_law = msgspec.structs.replace(POLICY, changes_at_ms=NOW + ahead)
    new_policy = Situation(policy_until=NOW + ahead)

    assert evaluate(POLICY, state, SEND, NOW).valid_until == NOW + 60_000
    assert evaluate(new_law, state, SEND, NOW).valid_until == NOW + ahead
    assert evaluate(POLICY, state, SEND, NOW, new_policy).valid_until == NOW + ahead
    nothing = msgspec.structs.replace(SEND, purpose="nope")
    assert evaluate(POLICY, state, nothing, NOW, new_policy).valid_until == NOW + ahead
    for overtaken in (NOW, NOW - 1):  # another version is in force already
        assert evaluate(POLICY, state, SEND, NOW, Situation(policy_until=overtaken)).valid_until == NOW + 1


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES), situations)
def test_each_alternative_asked_itself_is_permitted(
    history: list[Entry], question: Question, place: str | None, situation: Situation
) -> None:
    """It is the same question but for the channel or the topic, and only a message has other ways. None is left out."""
    state = state_of(history, place)
    found = alternatives(POLICY, state, question, NOW, situation)

    assert len(found) <= MOST_ALTERNATIVES
    assert not found or (question.action is Action.SEND and situation == SOUND)
    for one in found:
        other = msgspec.structs.replace(question, channel=one.channel, topic=one.topic)
        assert (one.channel == question.channel) is not (one.topic == question.topic)
        assert isinstance(evaluate(POLICY, state, other, NOW, situation), Permit)
    if question.action is Action.SEND and question.purpose in POLICY.purposes:
        others = [
            *(msgspec.structs.replace(question, channel=channel) for channel in Channel),
            *(
                msgspec.structs.replace(question, topic=topic)
                for topic in POLICY.document.topics
                if question.topic is not None
            ),
        ]
        permitted = (
            isinstance(evaluate(POLICY, state, one, NOW, situation), Permit) for one in others if one != question
        )
        assert len(found) == min(sum(permitted), MOST_ALTERNATIVES)


def test_of_five_hundred_topics_that_are_all_denied_one_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = compiled(f"""\
controller: {{name: Acme GmbH}}
notices: {{nl: {{version: 3, text: {{en: {{title: Newsletter, body: What is new.}}}}}}}}
purposes: {{nl: {{class: marketing, actions: [send], basis: {{default: consent}}, channels: [email], notice: nl}}}}
topics: {{{", ".join(f"t{number}: {{}}" for number in range(500))}}}
""")
    asked: list[Question] = []

    def counting(policy: CompiledPolicy, state: DataSubjectState, question: Question, *rest: Any) -> Decision:
        asked.append(question)
        return evaluate(policy, state, question, *rest)

    monkeypatch.setattr("volenti.core.decision.evaluate", counting)
    question = msgspec.structs.replace(SEND, topic="t7")

    assert alternatives(policy, EMPTY, question, NOW) == ()
    assert [one.topic for one in asked] == ["t0"]
    assert len(alternatives(policy, having(GRANT), question, NOW)) == MOST_ALTERNATIVES


def test_no_more_than_eight_alternatives_are_told() -> None:
    policy = compiled(f"""\
controller: {{name: Acme GmbH}}
purposes: {{news: {{class: service, actions: [send], basis: {{default: legitimate_interest}}, channels: [email]}}}}
topics: {{{", ".join(f"t{number}: {{}}" for number in range(10))}}}
""")
    question = Question(action=Action.SEND, purpose="news", channel=Channel.EMAIL, topic="nope")

    assert [one.topic for one in alternatives(policy, EMPTY, question, NOW)] == [f"t{number}" for number in range(8)]


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES), situations)
def test_an_explanation_comes_to_the_decision_that_it_explains(
    history: list[Entry], question: Question, place: str | None, situation: Situation
) -> None:
    state = state_of(history, place)
    full = msgspec.structs.replace(question, every_reason=True)
    decision = evaluate(POLICY, state, full, NOW, situation)
    traced = explain(POLICY, state, full, NOW, situation)

    denied = [code for step in traced if step.outcome == "denied" for code in step.reasons]
    permitted = [code for step in traced if step.outcome == "permitted" for code in step.reasons]
    assert [STEPS.index(step.step) for step in traced] == sorted(STEPS.index(step.step) for step in traced)
    if isinstance(decision, Permit):
        assert (denied, permitted) == ([], [decision.reasons[0].reason.code])
    else:
        assert denied[: len(decision.reasons)] == [given_.reason.code for given_ in decision.reasons]
        assert decision.reasons[0].reason.step == "system" or len(denied) == len(decision.reasons)


@settings(deadline=None)
@given(histories, asked, st.sampled_from(PLACES), st.sampled_from(("include_unsubscribe", "delete_by", "no_profiling")))
def test_who_can_do_more_is_permitted_no_less(
    history: list[Entry], question: Question, place: str | None, more: str
) -> None:
    able = question.supported_obligations
    assume(able is not None)
    assert able is not None
    state = state_of(history, place)
    before, after = (
        evaluate(POLICY, state, msgspec.structs.replace(question, supported_obligations=some), NOW)
        for some in (able, able | {more})
    )

    assert isinstance(before, Deny) or isinstance(after, Permit)


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
@given(histories, asked, st.sampled_from(PLACES))
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


# --- what is remembered between questions -------------------------------------------------------------------------


def unasked(policy: CompiledPolicy) -> CompiledPolicy:
    """The policy as if nobody had asked anything yet."""
    return msgspec.structs.replace(policy)


cases = st.tuples(histories, st.sampled_from(PLACES), st.lists(asked, min_size=2, max_size=6))


@settings(deadline=None, max_examples=200)
@given(st.lists(cases, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_an_answer_is_the_same_whatever_was_asked_before(
    people: list[tuple[list[Entry], str | None, list[Question]]], random: Any
) -> None:
    """Of whom, what, in which order and how often: the instant too, which nothing remembered may hold."""
    one_by_one = [
        (state_of(history, place), question, now)
        for history, place, questions_ in people
        for question in questions_
        for now in (NOW, NOW - 5 * DAY, NOW + 400_000)
    ]
    expected = [evaluate(unasked(POLICY), *case) for case in one_by_one]

    policy, states = unasked(POLICY), {id(history): state_of(history, place) for history, place, _ in people}
    together = [
        (states[id(history)], question, now)
        for history, _, questions_ in people
        for question in questions_
        for now in (NOW, NOW - 5 * DAY, NOW + 400_000)
    ]
    order = [*range(len(together))] * 2
    random.shuffle(order)
    for number in order:
        assert expected[number] == evaluate(policy, *together[number])


def test_a_changed_copy_of_a_policy_remembers_nothing_of_the_other() -> None:
    policy, state = unasked(POLICY), having(GRANT)
    before = evaluate(policy, state, SEND, NOW)
    stricter = msgspec.structs.replace(policy.purposes["nl"], minimum_evidence=EvidenceGrade.E4)
    changed = msgspec.structs.replace(policy, purposes={**policy.purposes, "nl": stricter})

    assert isinstance(before, Permit)
    assert [one.reason.code for one in evaluate(changed, state, SEND, NOW).reasons] == ["consent.evidence_invalid"]
    assert before == evaluate(policy, state, SEND, NOW)


@pytest.mark.remembers
def test_what_a_policy_remembers_of_the_questions_has_an_end() -> None:
    policy, letters = unasked(POLICY), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    expected = evaluate(policy, having(GRANT), msgspec.structs.replace(SEND, jurisdiction="ZZ"), NOW)
    most = 0
    for place in (f"{one}{two}" for one in letters for two in letters):
        for own in ("DE", "FR", "US", "BR"):
            state = DataSubjectState(jurisdiction=own)
            evaluate(policy, state, msgspec.structs.replace(SEND, jurisdiction=place), NOW)
            most = max(most, len(policy.premises))

    assert 26 * 26 * 4 > MOST_PREMISES == most
    assert expected == evaluate(policy, having(GRANT), msgspec.structs.replace(SEND, jurisdiction="ZZ"), NOW)


@pytest.mark.remembers
def test_what_a_state_remembers_of_the_ends_of_its_grants_has_an_end() -> None:
    state, most = having(GRANT), 0
    for days in range(1, 2 * MOST_ENDS):
        lasting = msgspec.structs.replace(POLICY.purposes["nl"], valid_for=Duration(days=days))
        policy = msgspec.structs.replace(POLICY, purposes={"nl": lasting})
        then = GRANT.occurred_at + days * DAY
        assert isinstance(evaluate(policy, state, SEND, then - 1), Permit)
        assert isinstance(evaluate(policy, state, SEND, then), Deny)
        most = max(most, len(state.choices("nl").ends))

    assert most == MOST_ENDS


@pytest.mark.parametrize(
    "free",
    [
        {"recipient": "x" * 1000},
        {"region": "x" * 1000},
        {"topic": "x" * 1000},
        {"data_categories": ("x" * 1000,)},
        {"supported_obligations": frozenset(("x" * 1000,))},
        {"jurisdiction": "x" * 1000},
        {"purpose": "x" * 1000},
    ],
)
@pytest.mark.remembers
def test_what_a_caller_writes_freely_is_not_kept(free: dict[str, Any]) -> None:
    policy = unasked(POLICY)
    first = evaluate(policy, having(GRANT), msgspec.structs.replace(SEND, **free), NOW)

    assert "x" * 1000 not in repr([*policy.premises])
    assert len(policy.premises) == (0 if free.keys() & {"jurisdiction", "purpose"} else 1)
    assert first == evaluate(policy, having(GRANT), msgspec.structs.replace(SEND, **free), NOW)


def test_the_stricter_basis_denies_all_that_a_laxer_one_denies() -> None:
    """Without a choice of the person's: what silence means, from the strictest basis to the laxest."""
    order = [*LawfulBasis]

    answers = {}
    for basis in order:
        ana = msgspec.structs.replace(POLICY.document.purposes["ana"], basis={"default": basis})
        document = msgspec.structs.replace(POLICY.document, purposes={"ana": ana}, jurisdictions=None)
        decision = evaluate(
            compile_policy(document, (), None, 0),
            EMPTY,
            Question(action=Action.USE, purpose="ana", jurisdiction="DE"),
            NOW,
        )
        answers[basis.value] = decision.reasons[0].reason.code
    assert answers == {
        "prohibited": "jurisdiction.prohibited",
        "consent": "consent.missing",
        "soft_opt_in": "consent.missing",
        "legitimate_interest": "basis.legitimate_interest",
        "public_task": "basis.public_task",
        "opt_out": "basis.opt_out_regime",
        "contract": "basis.contract",
        "legal_obligation": "basis.legal_obligation",
        "vital_interest": "basis.vital_interest",
    }


def test_the_notices_of_the_table_are_what_a_publisher_would_have_published() -> None:
    assert POLICY.required_notice_version["nl"] == 2
    assert sorted(POLICY.published) == ["ads@1", "nl@1", "nl@2", "nl@3"]
    assert POLICY.published["nl@3"].hash == notice_hash("nl", POLICY.document.notices["nl"])
