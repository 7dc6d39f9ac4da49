"""What may be recorded, and how it is graded: a grant must stand up to every rule, a restriction to none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.admission import (
    AHEAD_MS,
    CONFLICTS,
    SHOWN_MS,
    Admission,
    Admitted,
    Choice,
    Command,
    Facts,
    Refusal,
    RefusalCode,
    ShownOffer,
    admit,
)
from volenti.core.consent import Actor, ConsentKind, settle
from volenti.core.data_subject import (
    EMPTY,
    Act,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Evidence,
    Identifier,
    Source,
    fold,
)
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.lint import lint
from volenti.core.policy.notice import published_form

DAY, SECOND = 86_400_000, 1_000
NOW = 1_782_907_200_000  # 2026-07-01T12:00:00Z
PUBLISHED = NOW - 300 * DAY
RESTRICTIVE: tuple[ConsentKind, ...] = ("deny", "withdraw", "object")


def policy_of(text: str) -> CompiledPolicy:
    policy = lint(text).policy
    assert policy is not None
    at = datetime.fromtimestamp(PUBLISHED / 1000, tz=UTC)
    published = [
        msgspec.structs.replace(published_form(key, notice), published_at=at) for key, notice in policy.notices.items()
    ]
    return compile_policy(policy, published, None, 0)


POLICY = policy_of("""\
controller: {name: Acme GmbH}
markets: [DE]
notices:
  nl: {version: 3, text: {en: {title: Newsletter, body: What is new.}}}
  ads: {version: 1, text: {en: {title: Advertising, body: What we share.}}}
purposes:
  nl: {class: marketing, actions: [send], basis: {default: consent}, channels: [email, sms], notice: nl}
  strict:
    {actions: [use], basis: {default: consent}, notice: nl, consent: {minimum_evidence: E3}}
  ads: {actions: [share], basis: {default: consent}, notice: ads}
  bare: {actions: [use], basis: {default: legitimate_interest}}
  old: {actions: [use], basis: {default: consent}, notice: nl, retired_at: 2026-07-01T12:00:00Z}
backdating_limit: P30D
""")
OFFER = ShownOffer(
    id="offer",
    issued_at=NOW - 60 * SECOND,
    notices=frozenset(("nl@3",)),
    purposes=frozenset(("nl", "strict")),
    preset=frozenset(),
)
CONFIRMED = Evidence(confirmation=Act("email_link", NOW - SECOND))
AUTHENTICATED = Evidence(authentication=Act("password", NOW - SECOND))
BOTH = Evidence(confirmation=Act("email_link", NOW - SECOND), authentication=Act("password", NOW - SECOND))


def choice(kind: ConsentKind = "grant", **members: Any) -> Choice:
    return Choice(**{"kind": kind, "purpose": "nl", "notice": "nl@3" if kind == "grant" else None, **members})


GRANT = choice()


def command(*choices: Choice, **members: Any) -> Command:
    """What a form of the person's sends, on which an offer was shown."""
    sent = {"actor": "data_subject", "component": "web", "method": "web_form", "surface": "/signup", "offer": OFFER}
    return Command(choices=choices, **{**sent, **members})


def decided(
    asked: Command, state: DataSubjectState = EMPTY, now: int = NOW, name: str = "new", **more: Any
) -> Admission:
    ids = [f"{name} {position}" for position in range(1 + len(asked.choices))]
    return admit(asked, state, POLICY, now, ids, **more)


def admitted(asked: Command, state: DataSubjectState = EMPTY, now: int = NOW, name: str = "new") -> Admitted:
    admission = decided(asked, state, now, name)
    assert isinstance(admission, Admitted), admission
    return admission


def after(*asked: Command) -> DataSubjectState:
    """The state after commands that were sent a second apart, the last one ten seconds ago."""
    state = EMPTY
    for position, one in enumerate(asked):
        now = NOW - (9 + len(asked) - position) * SECOND
        state = admitted(msgspec.structs.replace(one, offer=None), state, now, f"before {position}").state
    return state


def choice_recorded(admission: Admitted, position: int = -1) -> ConsentRecorded:
    event = admission.entries[position].event
    assert isinstance(event, ConsentRecorded)
    return event


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED = after(command(choice("withdraw")))

REFUSALS: list[tuple[RefusalCode, str, Command, DataSubjectState]] = [
    ("purpose_unknown", "/events/0/purpose", command(choice(purpose="nope")), EMPTY),
    ("purpose_unknown", "/events/0/purpose", command(choice("withdraw", purpose="nope")), EMPTY),
    ("purpose_unknown", "/events/1/purpose", command(GRANT, choice(purpose="nope")), EMPTY),
    ("purpose_retired", "/events/0/purpose", command(choice(purpose="old"), offer=None), EMPTY),
    ("channel_unknown", "/events/0/channels/1", command(choice(channels=("email", "push"))), EMPTY),
    ("notice_required", "/events/0/notice", command(choice(notice=None)), EMPTY),
    ("notice_required", "/events/0/notice", command(choice(notice=None), actor="operator"), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice(notice="nl@4")), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice(notice="nl")), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice(notice="ads@1")), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice(purpose="bare")), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice(notice="nl@4"), actor="import", offer=None), EMPTY),
    ("notice_not_published_then", "/events/0/occurred_at", command(choice(claimed_at=PUBLISHED - 1)), EMPTY),
    ("dated_ahead", "/events/0/occurred_at", command(choice(claimed_at=NOW + AHEAD_MS + 1)), EMPTY),
    ("not_affirmative", "/events/0", command(GRANT, actor="system"), EMPTY),
    ("not_affirmative", "/events/0",
     command(GRANT, offer=msgspec.structs.replace(OFFER, preset=frozenset(("nl",)))), EMPTY),
    ("offer_invalid", "/evidence/offer", command(choice(purpose="ads", notice="ads@1")), EMPTY),
    ("offer_invalid", "/evidence/offer",
     command(GRANT, offer=msgspec.structs.replace(OFFER, notices=frozenset(("nl@2",)))), EMPTY),
    ("offer_invalid", "/evidence/offer",
     command(GRANT, offer=msgspec.structs.replace(OFFER, purposes=frozenset(("strict",)))), EMPTY),
    ("validity_invalid", "/events/0/valid_until", command(choice(valid_until=NOW)), EMPTY),
    ("validity_invalid", "/events/0/valid_until",
     command(choice(valid_from=NOW + DAY, valid_until=NOW + DAY)), EMPTY),
    ("validity_invalid", "/events/0/valid_until",
     command(choice(claimed_at=NOW - DAY, valid_until=NOW - DAY)), EMPTY),
    ("resubscribe_requires_data_subject_act", "/events/0", command(GRANT, offer=None), REFUSED),
    ("resubscribe_requires_data_subject_act", "/events/0", command(GRANT, actor="operator"), REFUSED),
    ("resubscribe_requires_data_subject_act", "/events/0", command(GRANT, actor="import", offer=None), REFUSED),
    ("resubscribe_requires_data_subject_act", "/events/0", command(choice(channels=("sms",)), offer=None), REFUSED),
    ("resubscribe_requires_data_subject_act", "/events/1",
     command(choice("withdraw", purpose="ads"), GRANT, offer=None), REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("code", "pointer", "asked", "state"), REFUSALS)
def test_each_refusal_names_its_rule_and_the_member_at_fault(
    code: RefusalCode, pointer: str, asked: Command, state: DataSubjectState
) -> None:
    admission = decided(asked, state)

    assert isinstance(admission, Refusal), admission
    assert (code, pointer) == (admission.code, admission.pointer)
    assert (code in CONFLICTS) is admission.conflict
    assert (code == "resubscribe_requires_data_subject_act") is (admission.by is not None)


def test_the_table_has_every_refusal_that_the_rules_can_give() -> None:
    elsewhere = {"entry_exists"}  # given by the ledger, not by the rules

    assert set(get_args(RefusalCode)) - elsewhere == {code for code, *_ in REFUSALS}


def test_four_refusals_contradict_what_is_stored() -> None:
    expected = {"entry_exists", "offer_invalid", "purpose_retired", "resubscribe_requires_data_subject_act"}

    assert expected == CONFLICTS


def test_a_refusal_to_permit_again_names_the_latest_refusal() -> None:
    state = after(command(choice("withdraw")), command(choice("deny")), command(choice("withdraw")))
    admission = decided(command(GRANT, offer=None), state)

    assert isinstance(admission, Refusal)
    assert admission.by == "before 2 1"


def test_one_choice_that_is_refused_refuses_all_and_the_facts_with_them() -> None:
    asked = command(GRANT, choice("withdraw"), choice(notice="nl@4"), facts=Facts(jurisdiction="DE"))

    assert isinstance(decided(asked), Refusal)


@pytest.mark.parametrize(
    "members",
    [
        {"claimed_at": NOW + AHEAD_MS},
        {"claimed_at": PUBLISHED},
        {"valid_from": NOW + DAY, "valid_until": NOW + DAY + 1},
        {"valid_until": NOW + 1},
        {"channels": ("sms", "email")},
    ],
)
def test_a_grant_at_the_edge_of_a_rule_is_admitted(members: dict[str, Any]) -> None:
    assert isinstance(decided(command(choice(**members))), Admitted)


def test_an_import_may_leave_out_the_notice() -> None:
    asked = command(choice(notice=None), actor="import", offer=None, source=Source("crm", "row 7"))
    admission = admitted(asked)

    assert (choice_recorded(admission).evidence_grade, admission.entries[0].notice_hash) == (0, None)
    assert choice_recorded(admission).source == Source("crm", "row 7")


# --- permitting again ---------------------------------------------------------------------------------------------

OPERATOR = command(GRANT, actor="operator", evidence=CONFIRMED)
IMPORTED = command(GRANT, actor="import", evidence=CONFIRMED, offer=None)


@pytest.mark.parametrize("kind", RESTRICTIVE)
@pytest.mark.parametrize(
    ("asked", "again"),
    [
        (command(GRANT), True),
        (command(GRANT, actor="guardian"), True),
        (command(GRANT, offer=None), False),
        (command(GRANT, evidence=BOTH, offer=None), False),
        (command(GRANT, offer=msgspec.structs.replace(OFFER, issued_at=NOW)), False),
        (OPERATOR, True),
        (msgspec.structs.replace(OPERATOR, evidence=None), False),
        (msgspec.structs.replace(OPERATOR, evidence=Evidence(confirmation=Act("link", NOW - 11 * SECOND))), False),
        (msgspec.structs.replace(OPERATOR, offer=None), False),
        (IMPORTED, True),
        (msgspec.structs.replace(IMPORTED, evidence=None), False),
        (msgspec.structs.replace(IMPORTED, evidence=Evidence(confirmation=Act("link", NOW - 11 * SECOND))), False),
    ],
)
def test_after_a_refusal_only_the_persons_own_proved_act_permits_again(
    kind: ConsentKind, asked: Command, again: bool
) -> None:
    state = after(command(choice(kind)))

    assert again is isinstance(decided(asked, state), Admitted)


@pytest.mark.parametrize(("evidence", "again"), [(None, False), (CONFIRMED, True), (BOTH, True)])
def test_a_purpose_that_demands_more_demands_it_of_permitting_again_too(evidence: Evidence | None, again: bool) -> None:
    state = after(command(choice("withdraw", purpose="strict")))
    admission = decided(command(choice(purpose="strict"), evidence=evidence), state)

    assert again is isinstance(admission, Admitted)


@pytest.mark.parametrize("channels", [("email",), ()])
def test_a_refusal_of_one_channel_stands_in_the_way_of_grants_that_cover_it_only(channels: tuple[str, ...]) -> None:
    state = after(command(choice("withdraw", channels=("email",))))

    assert isinstance(decided(command(choice(channels=channels), offer=None), state), Refusal)
    assert isinstance(decided(command(choice(channels=("sms",)), offer=None), state), Admitted)


@pytest.mark.parametrize("age", [10 * SECOND, 11 * SECOND])
def test_a_grant_dated_no_later_than_the_refusal_is_recorded_without_effect(age: int) -> None:
    """The withdrawal stands at ten seconds ago; weak or strong, an older grant is an ordinary record of what was."""
    for offer in (None, OFFER):
        admission = admitted(command(choice(claimed_at=NOW - age), offer=offer), REFUSED)

        assert [obstacle and obstacle.entry for obstacle in admission.obstacles] == ["before 0 1"]
        assert settle(admission.state.on("nl"), "email").state == "withdrawn"


# --- what takes effect --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "asked", "against"),
    [
        ((), command(GRANT), [None]),
        ((), command(choice("withdraw")), [None]),
        ((command(choice("object")),), command(choice("withdraw")), [None]),
        ((command(GRANT),), command(choice("withdraw")), [None]),
        ((command(GRANT),), command(choice("withdraw", claimed_at=NOW - 11 * SECOND)), [None]),
        ((command(GRANT),), command(choice(claimed_at=NOW - 11 * SECOND)), ["before 0 1"]),
        ((command(choice("deny")),), command(choice(claimed_at=NOW - 11 * SECOND)), ["before 0 1"]),
        ((), command(GRANT, choice("withdraw")), ["new 2", None]),
        ((), command(choice("withdraw"), GRANT), [None, "offer"]),
        ((), command(GRANT, choice("withdraw", channels=("sms",))), [None, None]),
        ((), command(GRANT, choice("withdraw", purpose="ads")), [None, None]),
        ((), command(GRANT, facts=Facts(locale="de")), [None, None]),
    ],
)
def test_each_entry_is_told_what_stands_in_the_way_of_its_effect(
    before: tuple[Command, ...], asked: Command, against: list[str | None]
) -> None:
    admission = admitted(asked, after(*before))

    assert against == [None if obstacle is None else obstacle.entry for obstacle in admission.obstacles]


def test_a_late_restriction_is_told_of_the_newer_grant_that_stands_against_it() -> None:
    granted = admitted(command(GRANT), now=NOW - SECOND).state
    admission = admitted(command(choice("withdraw", claimed_at=NOW - DAY)), granted)

    assert [obstacle and obstacle.entry for obstacle in admission.obstacles] == ["offer"]


# --- restrictions are never refused -------------------------------------------------------------------------------

states = st.sampled_from(
    [EMPTY, after(command(GRANT)), *(after(command(choice(kind))) for kind in RESTRICTIVE), REFUSED]
)
instants = st.none() | st.integers(-(2**53) + 1, 2**53 - 1)


@settings(deadline=None)
@given(
    state=states,
    kind=st.sampled_from(RESTRICTIVE),
    purpose=st.sampled_from(sorted(POLICY.purposes)),
    channels=st.lists(st.sampled_from(("email", "sms", "push", "carrier pigeon")), max_size=3).map(tuple),
    notice=st.sampled_from((None, "nl@3", "nl@99", "ads@1", "nothing", "")),
    times=st.tuples(instants, instants, instants),
    actor=st.sampled_from(get_args(Actor)),
    offer=st.sampled_from((None, OFFER, msgspec.structs.replace(OFFER, preset=OFFER.purposes, notices=frozenset()))),
    evidence=st.sampled_from((None, CONFIRMED, BOTH)),
    described=st.sampled_from((None, "web_form")),
)
def test_a_restriction_is_never_refused_for_state_date_notice_actor_or_proof(
    state: DataSubjectState,
    kind: ConsentKind,
    purpose: str,
    channels: tuple[str, ...],
    notice: str | None,
    times: tuple[int | None, int | None, int | None],
    actor: Actor,
    offer: ShownOffer | None,
    evidence: Evidence | None,
    described: str | None,
) -> None:
    claimed_at, valid_from, valid_until = times
    restriction = Choice(
        kind=kind, purpose=purpose, channels=channels, notice=notice, claimed_at=claimed_at,
        valid_from=valid_from, valid_until=valid_until,
    )  # fmt: skip
    asked = command(restriction, actor=actor, offer=offer, evidence=evidence, method=described, surface=described)
    admission = admitted(asked, state)

    recorded = choice_recorded(admission)
    assert recorded.occurred_at == (NOW if claimed_at is None else min(claimed_at, NOW))
    assert (recorded.valid_from, recorded.valid_until) == (None, None)
    if recorded.occurred_at == NOW:
        assert admission.obstacles == (None,)


@settings(deadline=None)
@given(state=states, kind=st.sampled_from(RESTRICTIVE), claimed_at=instants)
def test_a_restriction_never_makes_anything_granted(
    state: DataSubjectState, kind: ConsentKind, claimed_at: int | None
) -> None:
    admission = admitted(command(choice(kind, claimed_at=claimed_at)), state)

    for channel in (None, "email"):
        before, now = (settle(one.on("nl"), channel).state for one in (state, admission.state))
        assert now != "granted" or before == "granted"


# --- grades -------------------------------------------------------------------------------------------------------

HASTY = msgspec.structs.replace(OFFER, issued_at=NOW - SHOWN_MS + 1)
UNHURRIED = msgspec.structs.replace(OFFER, issued_at=NOW - SHOWN_MS)
BARE: dict[str, Any] = {"offer": None, "method": None, "surface": None}
LIMIT = NOW - 30 * DAY


@pytest.mark.parametrize(
    ("grade", "members", "claimed_at"),
    [
        (0, BARE, None),
        (0, {**BARE, "method": "web_form"}, None),
        (0, {**BARE, "surface": "/signup"}, None),
        (0, {**BARE, "evidence": BOTH}, None),
        (1, {"offer": None}, None),
        (1, {"offer": None, "evidence": CONFIRMED}, None),
        (1, {"offer": None, "evidence": BOTH}, None),
        (1, {"offer": None, "actor": "operator"}, None),
        (2, {}, None),
        (2, {"method": None, "surface": None}, None),
        (2, {"actor": "guardian"}, None),
        (2, {"evidence": Evidence(user_agent="browser", ip_prefix="203.0.113.0/24")}, None),
        (3, {"evidence": CONFIRMED}, None),
        (3, {"evidence": AUTHENTICATED}, None),
        (3, {"evidence": CONFIRMED, "actor": "operator"}, None),
        (4, {"evidence": BOTH}, None),
        (1, {"offer": HASTY}, None),
        (1, {"offer": HASTY, "evidence": BOTH}, None),
        (1, {"offer": UNHURRIED}, NOW - 1),
        (2, {"offer": UNHURRIED}, None),
        (2, {"offer": UNHURRIED}, NOW + 1),
        (1, {}, NOW - DAY),
        (0, {"offer": None}, LIMIT),
        (1, {"offer": None}, LIMIT + 1),
        (0, {"evidence": BOTH}, LIMIT),
        (0, {"actor": "import", "offer": None}, None),
        (0, {"actor": "import", "offer": None, "evidence": AUTHENTICATED}, None),
        (3, {"actor": "import", "offer": None, "evidence": CONFIRMED}, None),
        (0, {"actor": "import", "offer": None, "evidence": CONFIRMED}, LIMIT),
    ],
)
def test_a_grant_is_graded_by_what_proves_it(grade: int, members: dict[str, Any], claimed_at: int | None) -> None:
    assert grade == choice_recorded(admitted(command(choice(claimed_at=claimed_at), **members))).evidence_grade


@pytest.mark.parametrize("kind", RESTRICTIVE)
def test_a_restriction_has_no_grade(kind: ConsentKind) -> None:
    assert choice_recorded(admitted(command(choice(kind), evidence=BOTH))).evidence_grade == 0


def test_what_the_policy_asked_is_recorded_with_the_choice() -> None:
    admission = admitted(command(choice(purpose="strict"), GRANT))

    assert [choice_recorded(admission, position).minimum_grade for position in (0, 1)] == [3, 0]


# --- what is recorded ---------------------------------------------------------------------------------------------


def test_an_entry_says_who_when_how_and_about_what() -> None:
    asked = command(
        choice(
            channels=("sms", "email", "sms"), language="de", claimed_at=NOW + 5, valid_from=NOW, valid_until=NOW + DAY
        ),
        evidence=Evidence(offer="offer", user_agent="browser"),
        facts=Facts(jurisdiction="DE"),
    )  # fmt: skip
    facts, recorded = admitted(asked).entries

    assert ("consent.granted", ("nl",), POLICY.published["nl@3"].hash) == (
        recorded.kind,
        recorded.purposes,
        recorded.notice_hash,
    )
    assert recorded.event == ConsentRecorded(
        kind="grant", purpose="nl", channels=("email", "sms"), notice="nl@3", jurisdiction="DE", evidence_grade=2,
        minimum_grade=0, valid_from=NOW, valid_until=NOW + DAY, occurred_at=NOW, claimed_at=NOW + 5,
        actor="data_subject", component="web", method="web_form", surface="/signup", language="de",
        evidence=Evidence(offer="offer", user_agent="browser"), previous="offer",
    )  # fmt: skip
    assert (facts.kind, facts.purposes, facts.notice_hash) == ("data_subject.updated", (), None)


ALL_FACTS = Facts(
    added=(Identifier("email", "ana@example.org"),), jurisdiction="DE", time_zone="Europe/Berlin", locale="de"
)


@pytest.mark.parametrize("offer", [None, OFFER])
@pytest.mark.parametrize("facts", [Facts(), ALL_FACTS])
def test_entries_take_the_fresh_ids_in_order_and_an_offer_names_the_first(
    offer: ShownOffer | None, facts: Facts
) -> None:
    admission = admitted(command(GRANT, choice("withdraw", purpose="ads"), offer=offer, facts=facts))
    fresh = ["new 1", "new 2"] if facts == Facts() else ["new 0", "new 1", "new 2"]

    expected = fresh if offer is None else ["offer", *fresh[1:]]
    assert expected == [entry.id for entry in admission.entries]


@pytest.mark.parametrize("previous", [None, "last"])
@pytest.mark.parametrize("facts", [Facts(), ALL_FACTS])
def test_each_entry_names_the_one_before_it(previous: str | None, facts: Facts) -> None:
    admission = decided(command(GRANT, choice("object", purpose="ads"), GRANT, facts=facts), previous=previous)

    assert isinstance(admission, Admitted)
    expected = [previous, *(entry.id for entry in admission.entries[:-1])]
    assert expected == [entry.event.previous for entry in admission.entries]


def test_the_state_after_is_the_fold_of_the_entries() -> None:
    asked = command(GRANT, choice("object", purpose="ads"), choice("withdraw", channels=("sms",)), facts=ALL_FACTS)
    admission = admitted(asked, REFUSED)

    assert fold([Entry(entry.id, NOW, entry.event) for entry in admission.entries], REFUSED) == admission.state


# --- facts --------------------------------------------------------------------------------------------------------

EMAIL, PHONE = Identifier("email", "ana@example.org"), Identifier("phone", "+491701234567")
VERIFIED = Identifier("email", "ana@example.org", NOW - DAY)
KNOWN = DataSubjectState(identifiers=(EMAIL,), jurisdiction="DE", time_zone="Europe/Berlin", locale="de")


@pytest.mark.parametrize(
    ("facts", "known", "update"),
    [
        (Facts(), EMPTY, None),
        (Facts(), KNOWN, None),
        (Facts(jurisdiction="", time_zone="", locale=""), EMPTY, None),
        (Facts(jurisdiction="DE", time_zone="Europe/Berlin", locale="de", added=(EMAIL,)), KNOWN, None),
        (Facts(added=(EMAIL,)), msgspec.structs.replace(KNOWN, identifiers=(VERIFIED,)), None),
        (Facts(added=(VERIFIED,)), msgspec.structs.replace(KNOWN, identifiers=(VERIFIED,)), None),
        (Facts(removed=(PHONE,)), KNOWN, None),
        (Facts(jurisdiction="US-CA", locale="de"), KNOWN, {"jurisdiction": "US-CA"}),
        (Facts(time_zone="", locale="de"), KNOWN, {"time_zone": ""}),
        (Facts(locale="en"), KNOWN, {"locale": "en"}),
        (Facts(added=(EMAIL, PHONE)), KNOWN, {"added": (PHONE,)}),
        (Facts(added=(VERIFIED,)), KNOWN, {"added": (VERIFIED,)}),
        (Facts(removed=(EMAIL, PHONE)), KNOWN, {"removed": (EMAIL,)}),
        (ALL_FACTS, EMPTY,
         {"added": (EMAIL,), "jurisdiction": "DE", "time_zone": "Europe/Berlin", "locale": "de"}),
    ],
)  # fmt: skip
def test_facts_are_recorded_only_where_they_differ_from_what_is_known(
    facts: Facts, known: DataSubjectState, update: Mapping[str, Any] | None
) -> None:
    entries = admitted(command(facts=facts), known).entries

    if update is None:
        assert entries == ()
    else:
        assert [entry.event for entry in entries] == [
            DataSubjectUpdated(
                occurred_at=NOW, claimed_at=NOW, actor="data_subject", component="web", method="web_form",
                surface="/signup", **update,
            )
        ]  # fmt: skip


def test_a_choice_is_recorded_for_the_place_that_the_same_request_states() -> None:
    admission = admitted(command(GRANT, facts=Facts(jurisdiction="US-CA")), KNOWN)

    assert choice_recorded(admission).jurisdiction == "US-CA"
