"""What may be recorded, and how it is graded: a grant must stand up to every rule, a restriction to none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_policies import compiled, row
from volenti.core.admission import (
    AHEAD_MS,
    CONFLICTS,
    PERMISSIVE,
    SHOWN_MS,
    Admission,
    Admitted,
    Choice,
    Command,
    Facts,
    Refusal,
    RefusalCode,
    Restriction,
    ShownOffer,
    admit,
    most_entries,
)
from volenti.core.consent import Actor, ConsentEvent, ConsentKind, insert, settle
from volenti.core.data_subject import (
    EMPTY,
    ENTRY_KINDS,
    Act,
    Asked,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Evidence,
    Fact,
    Guardian,
    Identifier,
    ProcessingRestricted,
    Relation,
    Source,
    comes_of_age,
    fold,
)
from volenti.core.policy.document import RelationType
from volenti.core.policy.duration import Duration, parse_duration

DAY, SECOND = 86_400_000, 1_000
NOW = 1_782_907_200_000  # 2026-07-01T12:00:00Z
PUBLISHED = NOW - 300 * DAY
RESTRICTIVE: tuple[ConsentKind, ...] = ("deny", "withdraw", "object")


def duration(text: str) -> Duration:
    parsed = parse_duration(text)
    assert parsed is not None
    return parsed


POLICY = compiled(
    """\
controller: {name: Acme GmbH}
markets: [DE]
notices:
  nl: {version: 3, text: {en: {title: Newsletter, body: What is new.}}}
  ads: {version: 1, text: {en: {title: Advertising, body: What we share.}}}
purposes:
  nl: {class: marketing, actions: [send], basis: {default: consent}, channels: [email, sms], notice: nl}
  strict:
    {actions: [use], basis: {default: consent}, notice: nl, consent: {minimum_evidence: E3}}
  doi:
    {class: marketing, actions: [send], basis: {default: consent}, channels: [email, sms], notice: nl, consent: {double_opt_in: true}}
  doi4: {actions: [use], basis: {default: consent}, notice: nl, consent: {double_opt_in: true, minimum_evidence: E4}}
  year: {actions: [use], basis: {default: consent}, notice: nl, consent: {valid_for: P365D}}
  ads: {actions: [share], basis: {default: consent}, notice: ads}
  bare: {actions: [use], basis: {default: legitimate_interest}}
  old: {actions: [use], basis: {default: consent}, notice: nl, retired_at: 2026-07-01T12:00:00Z}
backdating_limit: P30D
asking: {cooldown: P14D}
""",
    law=[row("FR", "age_of_consent", 15), row("FR", "consent_expiry", duration("P6M"))],
    published_at=PUBLISHED,
)
OFFER = ShownOffer(
    id="offer",
    issued_at=NOW - 60 * SECOND,
    notices=frozenset(("nl@3",)),
    purposes=frozenset(("nl", "strict", "doi")),
    preset=frozenset(),
)
LIMIT = NOW - 30 * DAY
"""What is dated so long ago, or longer, is graded E0: the policy's backdating limit."""
BOUGHT, SIGNED = Relation(RelationType.PURCHASE, NOW - DAY), Relation(RelationType.CONTRACT, NOW - 9 * DAY)
TO_COME = Act("link", NOW + AHEAD_MS + 1)
CONFIRMED = Evidence(confirmation=Act("email_link", NOW - SECOND))
AUTHENTICATED = Evidence(authentication=Act("password", NOW - SECOND))
BOTH = Evidence(confirmation=Act("email_link", NOW - SECOND), authentication=Act("password", NOW - SECOND))


def choice(kind: ConsentKind = "grant", **members: Any) -> Choice:
    notice = "nl@3" if kind in ("grant", "request") else None
    return Choice(**{"kind": kind, "purpose": "nl", "notice": notice, **members})


GRANT = choice()


def command(*choices: Choice, **members: Any) -> Command:
    """What a form of the person's sends, on which an offer was shown."""
    sent = {"actor": "data_subject", "component": "web", "method": "web_form", "surface": "/signup", "offer": OFFER}
    return Command(choices=choices, **{**sent, **members})


def decided(
    asked: Command, state: DataSubjectState = EMPTY, now: int = NOW, name: str = "new", **more: Any
) -> Admission:
    ids = [f"{name} {position}" for position in range(most_entries(asked))]
    return admit(asked, state, POLICY, now, ids, **more)


def admitted(asked: Command, state: DataSubjectState = EMPTY, now: int = NOW, name: str = "new") -> Admitted:
    admission = decided(asked, state, now, name)
    assert isinstance(admission, Admitted), admission
    return admission


def after(*asked: Command) -> DataSubjectState:
    """The state after commands that were sent a second apart, the last one ten seconds ago."""
    return then(EMPTY, *asked)


def then(state: DataSubjectState, *asked: Command, name: str = "before") -> DataSubjectState:
    for position, one in enumerate(asked):
        now = NOW - (9 + len(asked) - position) * SECOND
        state = admitted(msgspec.structs.replace(one, offer=None), state, now, f"{name} {position}").state
    return state


def choice_recorded(admission: Admitted, position: int = -1) -> ConsentRecorded:
    event = admission.entries[position].event
    assert isinstance(event, ConsentRecorded)
    return event


# --- the table of semantics, section 3: each cell, where it is admitted and where it is folded ---------------------

CONFIRM = choice("confirm", names="before 0 1")
BEFORE: dict[str, tuple[Command, ...]] = {
    "unknown": (),
    "pending": (command(choice("request")),),
    "granted": (command(GRANT),),
    "confirmed": (command(choice("request")), command(CONFIRM)),
    "denied": (command(choice("deny")),),
    "withdrawn": (command(GRANT), command(choice("withdraw"))),
    "objected": (command(choice("object")),),
    "objected, asked": (command(choice("object")), command(choice("request"))),
}
"""How each state is reached. `confirmed` is granted through a request, `objected, asked` has one open."""
EVENTS: tuple[ConsentKind, ...] = ("request", "confirm", "grant", "deny", "withdraw", "object", "renew", "invalidate")
CELLS = """
                | request          | confirm   | grant   | deny      | withdraw  | object   | renew   | invalidate
unknown         | unknown, asked   | 409       | granted | denied    | withdrawn | objected | 409     | 409
pending         | unknown, asked   | granted   | granted | denied    | withdrawn | objected | 409     | unknown
granted         | granted, asked   | 409       | granted | withdrawn | withdrawn | objected | granted | unknown
confirmed       | granted, asked   | granted   | granted | withdrawn | withdrawn | objected | granted | unknown, asked
denied          | denied, asked    | 409       | granted | denied    | denied    | objected | 409     | unknown
withdrawn       | withdrawn, asked | 409       | granted | withdrawn | withdrawn | objected | 409     | granted
objected        | objected, asked  | 409       | granted | objected  | objected  | objected | 409     | unknown
objected, asked | objected, asked  | granted   | granted | objected  | objected  | objected | 409     | objected
"""
"""`asked`: a request is open over that state. The last entry is the one that is declared void. 409: not admitted."""
NO_TRANSITION = {"confirm": "nothing_to_confirm", "renew": "not_renewable", "invalidate": "nothing_to_invalidate"}


def cells() -> list[tuple[str, ConsentKind, str]]:
    head, *lines = ([cell.strip() for cell in line.split("|")] for line in CELLS.strip("\n").splitlines())
    assert tuple(head[1:]) == EVENTS
    assert [line[0] for line in lines] == list(BEFORE)
    return [(line[0], kind, cell) for line in lines for kind, cell in zip(EVENTS, line[1:], strict=True)]


@pytest.mark.parametrize(("before", "kind", "expected"), cells())
def test_each_cell_of_the_table_of_states_holds(before: str, kind: ConsentKind, expected: str) -> None:
    state = after(*BEFORE[before])
    last = "nothing" if not BEFORE[before] else f"before {len(BEFORE[before]) - 1} 1"
    request = next((one.entry for one in state.on("nl") if one.kind == "request"), "nothing")
    named = {"confirm": request, "invalidate": last}.get(kind)
    plain = kind in ("confirm", "renew", "invalidate")
    asked = command(
        choice(kind, names=named),
        actor="operator" if kind == "invalidate" else "data_subject",
        **({"offer": None} if plain else {}),
    )
    by_hand = ConsentEvent("by hand", kind, NOW, NOW, "data_subject", grade=3, names=named)

    admission = decided(asked, state)
    if expected == "409":
        assert isinstance(admission, Refusal), admission
        assert (admission.code, admission.conflict) == (NO_TRANSITION[kind], True)
        folded = state
    else:
        assert isinstance(admission, Admitted), admission
        folded = admission.state

    standing, expected_state = settle(folded.on("nl"), "email"), expected.removesuffix(", asked")
    if expected != "409":
        assert (standing.state, standing.pending is not None) == (expected_state, expected.endswith(", asked"))
    without = settle(insert(state.on("nl"), by_hand), "email")
    assert (without.state, without.pending is None) == (standing.state, standing.pending is None)


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED = after(command(choice("withdraw")))
GRANTED = after(command(GRANT))
YEAR = choice(purpose="year", claimed_at=NOW - 365 * DAY)
IN_FRANCE = DataSubjectState(jurisdiction="FR")
BIRTHDAY = comes_of_age("2011-07-02", 15)
assert BIRTHDAY > NOW, "this person is fourteen"
MINOR = DataSubjectState(
    jurisdiction="FR",
    birth_date="2011-07-02",
    guardians={
        "parent": Guardian("parent", "passport", NOW - DAY),
        "former": Guardian("former", "passport", NOW - DAY, NOW),
    },
)
ADULT = msgspec.structs.replace(MINOR, birth_date="2000-01-01")

ASKING = Command(actor="system", component="mail", asked=("nl",))

REFUSALS: list[tuple[RefusalCode, str, Command, DataSubjectState]] = [
    ("purpose_unknown", "/events/0/purpose", command(choice(purpose="nope")), EMPTY),
    ("purpose_unknown", "/events/0/purpose", command(choice("withdraw", purpose="nope")), EMPTY),
    ("purpose_unknown", "/events/1/purpose", command(GRANT, choice(purpose="nope")), EMPTY),
    ("purpose_retired", "/events/0/purpose", command(choice(purpose="old"), offer=None), EMPTY),
    ("ask_locked", "", ASKING, after(ASKING)),
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
    ("dated_ahead", "/evidence/confirmation/at", command(GRANT, evidence=Evidence(confirmation=TO_COME)), EMPTY),
    ("dated_ahead", "/evidence/authentication/at", command(GRANT, evidence=Evidence(authentication=TO_COME)), EMPTY),
    ("dated_ahead", "/relations/1/at",
     command(facts=Facts(relations=(BOUGHT, msgspec.structs.replace(BOUGHT, at=NOW + AHEAD_MS + 1)))), EMPTY),
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
    ("resubscribe_requires_data_subject_act", "/events/0",
     command(choice("confirm", purpose="doi4", names="before 1 1"), offer=None),
     after(command(choice("deny", purpose="doi4")), command(choice(purpose="doi4")))),
    *(
        ("guardian_required", "/events/0", command(one, offer=None), state)
        for one, state in (
            (GRANT, MINOR),
            (choice("request"), MINOR),
            (choice("renew"), msgspec.structs.replace(GRANTED, jurisdiction="FR", birth_date="2011-07-02")),
            (choice("confirm", names="before 0 1"), msgspec.structs.replace(
                after(command(choice("request"))), jurisdiction="FR", birth_date="2011-07-02")),
        )
    ),
    ("guardian_required", "/events/0", command(GRANT, actor="operator"), MINOR),
    ("guardian_unknown", "/actor/id", command(GRANT, actor="guardian"), MINOR),
    ("guardian_unknown", "/actor/id", command(GRANT, actor="guardian", guardian="stranger"), MINOR),
    ("guardian_unknown", "/actor/id", command(GRANT, actor="guardian", guardian="former"), MINOR),
    ("guardian_unknown", "/actor/id",
     command(choice(claimed_at=NOW - DAY - 1), actor="guardian", guardian="parent"), MINOR),
    ("guardian_unknown", "/actor/id", command(GRANT, actor="guardian", guardian="parent"), ADULT),
    ("nothing_to_confirm", "/events/0", command(choice("confirm", names="before 0 1"), offer=None), GRANTED),
    ("nothing_to_confirm", "/events/0", command(choice("confirm"), offer=None), after(command(choice("request")))),
    ("nothing_to_confirm", "/events/0", command(choice("confirm", names="before 0 1"), offer=None),
     after(command(choice("request")), command(choice("request")))),
    ("nothing_to_confirm", "/events/0", command(choice("confirm", names="before 0 1"), offer=None),
     after(command(choice("request")), command(choice("deny")))),
    ("not_renewable", "/events/0", command(choice("renew"), offer=None), REFUSED),
    ("not_renewable", "/events/0", command(choice("renew"), actor="operator", offer=None), GRANTED),
    ("not_renewable", "/events/0", command(choice("renew", channels=("email", "sms")), offer=None),
     after(command(choice(channels=("email",))))),
    ("not_renewable", "/events/0", command(choice("renew"), offer=None), after(command(choice(valid_until=NOW)))),
    ("not_renewable", "/events/0", command(choice("renew", purpose="year"), offer=None), after(command(
        choice(purpose="year", claimed_at=NOW - 365 * DAY, notice=None), actor="import"))),
    ("not_renewable", "/events/0", command(choice("renew"), offer=None), then(IN_FRANCE, command(
        choice(claimed_at=NOW - 181 * DAY)))),
    ("not_renewable", "/events/0", command(choice("renew", claimed_at=NOW - 11 * SECOND), offer=None), GRANTED),
    ("nothing_to_invalidate", "/events/0/supersedes", command(choice("invalidate"), actor="operator"), GRANTED),
    ("nothing_to_invalidate", "/events/0/supersedes",
     command(choice("invalidate", purpose="ads", names="before 0 1"), actor="operator"), GRANTED),
    ("nothing_to_invalidate", "/events/0/supersedes",
     command(choice("invalidate", names="before 0 1"), actor="operator"),
     after(command(GRANT), command(choice("invalidate", names="before 0 1"), actor="operator"))),
    ("nothing_to_invalidate", "/events/0/supersedes",
     command(choice("invalidate", names="before 1 1"), actor="operator"),
     after(command(GRANT), command(choice("invalidate", names="before 0 1"), actor="operator"))),
    *(
        ("not_affirmative", "/events/0", command(choice("invalidate", names="before 0 1"), actor=actor), GRANTED)
        for actor in ("data_subject", "guardian", "import")
    ),
    ("approval_required", "/events/0",
     command(choice("invalidate", names="before 0 1"), actor="operator", voids_refusals=False), REFUSED),
    ("notice_unknown", "/events/0/notice", command(choice("acknowledge")), EMPTY),
    ("notice_unknown", "/events/0/notice", command(choice("acknowledge", notice="nl@4")), EMPTY),
]  # fmt: skip


FAULTS_OF_THE_REQUEST = {
    "purpose_unknown", "channel_unknown", "notice_required", "notice_unknown", "notice_not_published_then",
    "dated_ahead", "not_affirmative", "validity_invalid",
}  # fmt: skip
"""They would be refused of anybody, whatever is stored: 422 where the others are 409."""


def test_a_refusal_either_finds_fault_with_the_request_or_contradicts_what_is_stored() -> None:
    assert set(get_args(RefusalCode)) - FAULTS_OF_THE_REQUEST == CONFLICTS


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


# --- guardians and minors -----------------------------------------------------------------------------------------

BY_PARENT = command(GRANT, actor="guardian", guardian="parent")


def test_a_guardian_on_record_consents_for_a_minor_as_well_as_a_person_for_themself() -> None:
    recorded = choice_recorded(admitted(BY_PARENT, MINOR))

    assert (recorded.actor, recorded.guardian, recorded.evidence_grade, recorded.age_of_consent) == ("guardian", "parent", 2, None)  # fmt: skip


def test_a_guardians_power_begins_and_ends_at_its_instants() -> None:
    parent = Guardian("parent", "passport", NOW - 5 * SECOND, NOW - 2 * SECOND)
    state = msgspec.structs.replace(MINOR, guardians={"parent": parent})
    given = [
        isinstance(decided(command(choice(claimed_at=NOW - age * SECOND), actor="guardian", guardian="parent"), state), Admitted)
        for age in (6, 5, 3, 2)
    ]  # fmt: skip

    assert given == [False, True, True, False]


@pytest.mark.parametrize("kind", RESTRICTIVE)
@pytest.mark.parametrize("guardian", [None, "stranger", "former", "parent"])
def test_whoever_acts_as_a_guardian_may_restrict(kind: ConsentKind, guardian: str | None) -> None:
    admission = admitted(command(choice(kind), actor="guardian", guardian=guardian), MINOR)

    assert (choice_recorded(admission).guardian, admission.obstacles) == (guardian, (None,))


@pytest.mark.parametrize("kind", RESTRICTIVE)
def test_a_minors_own_refusal_binds_against_their_guardian(kind: ConsentKind) -> None:
    refused = then(MINOR, command(choice(kind)), command(choice("withdraw"), actor="guardian", guardian="parent"))
    admission = decided(BY_PARENT, refused)

    assert isinstance(admission, Refusal)
    assert (admission.code, admission.by) == ("resubscribe_requires_data_subject_act", "before 0 1")


def test_a_guardian_may_permit_again_what_a_guardian_withdrew_and_the_person_may_once_of_age() -> None:
    withdrawn = then(MINOR, command(choice("withdraw"), actor="guardian", guardian="parent"))
    assert isinstance(decided(BY_PARENT, withdrawn), Admitted)

    grown_up = msgspec.structs.replace(withdrawn, birth_date=ADULT.birth_date)
    assert isinstance(decided(BY_PARENT, grown_up), Refusal)
    assert isinstance(decided(command(GRANT), grown_up), Admitted)


@pytest.mark.parametrize(
    ("state", "reached"),
    [
        (EMPTY, None),
        (IN_FRANCE, None),
        (DataSubjectState(jurisdiction="US", birth_date="2000-01-01"), None),
        (ADULT, 15),
    ],
)
def test_the_age_that_a_person_had_to_have_is_recorded_where_they_had_it(
    state: DataSubjectState, reached: int | None
) -> None:
    assert choice_recorded(admitted(command(GRANT), state)).age_of_consent == reached
    assert choice_recorded(admitted(command(choice("withdraw")), state)).age_of_consent is None


@pytest.mark.parametrize(("claimed_at", "admits"), [(BIRTHDAY - 1, False), (BIRTHDAY, True)])
def test_a_person_consents_alone_from_the_day_on_which_they_are_old_enough(claimed_at: int, admits: bool) -> None:
    asked = command(choice(claimed_at=claimed_at), offer=None)

    assert admits is isinstance(decided(asked, MINOR, BIRTHDAY + DAY), Admitted)


def test_of_the_law_on_all_that_a_purpose_does_the_highest_age_binds() -> None:
    policy = compiled(
        """\
controller: {name: Acme GmbH}
notices: {nl: {version: 3, text: {en: {title: Data, body: What we do.}}}}
purposes: {nl: {actions: [share, use], basis: {default: consent}, notice: nl, activity: analytics}}
""",
        law=[row("FR", "age_of_consent.sale_share", 13), row("FR", "age_of_consent.analytics", 16)],
    )
    asked = command(GRANT, offer=None)
    ages = {"2013-01-01": False, "2011-01-01": False, "2010-01-01": True}

    for born, admits in ages.items():
        state = DataSubjectState(jurisdiction="FR", birth_date=born)
        assert admits is isinstance(admit(asked, state, policy, NOW, ["facts", "new"]), Admitted)


# --- double opt-in ------------------------------------------------------------------------------------------------

ASKED_FOR = command(choice(purpose="doi"))


def test_under_double_opt_in_a_grant_without_confirmation_is_a_request_for_one() -> None:
    (entry,) = admitted(ASKED_FOR).entries

    assert (entry.kind, entry.id) == ("consent.requested", "offer")
    assert isinstance(entry.event, ConsentRecorded)
    assert (entry.event.kind, entry.event.names, entry.event.double_opt_in) == ("request", "offer", True)
    assert entry.event.evidence_grade == 2
    assert entry.notice_hash == POLICY.published["nl@3"].hash


@pytest.mark.parametrize("actor", ["data_subject", "operator", "import"])
def test_a_grant_that_was_confirmed_elsewhere_is_one(actor: Actor) -> None:
    admission = admitted(command(choice(purpose="doi"), actor=actor, evidence=CONFIRMED, offer=None))

    assert choice_recorded(admission).kind == "grant"


@pytest.mark.parametrize("evidence", [None, AUTHENTICATED, Evidence(user_agent="browser")])
def test_to_be_signed_in_confirms_no_mailbox(evidence: Evidence | None) -> None:
    assert choice_recorded(admitted(msgspec.structs.replace(ASKED_FOR, evidence=evidence))).kind == "request"


def confirmation(purpose: str = "doi", names: str = "before 0 1", **members: Any) -> Command:
    return command(
        Choice(kind="confirm", purpose=purpose, names=names), offer=None, method="email_link", evidence=CONFIRMED, **members
    )  # fmt: skip


def test_a_confirmation_takes_over_what_was_asked_for() -> None:
    request = choice(purpose="doi", channels=("sms",), valid_from=NOW, valid_until=NOW + DAY)
    admission = admitted(confirmation(), after(command(request)))

    recorded = choice_recorded(admission)
    assert admission.entries[0].kind == "consent.confirmed"
    assert admission.entries[0].notice_hash == POLICY.published["nl@3"].hash
    assert (recorded.channels, recorded.notice, recorded.names) == (("sms",), "nl@3", "before 0 1")
    assert (recorded.valid_from, recorded.valid_until) == (NOW, NOW + DAY)
    assert settle(admission.state.on("doi"), "sms").state == "granted"
    assert settle(admission.state.on("doi"), "email").state == "unknown"


@pytest.mark.parametrize(("request_proof", "grade"), [({"offer": None}, 3), ({}, 3), ({"evidence": AUTHENTICATED}, 4)])
def test_a_confirmed_mailbox_is_grade_three_and_with_an_authenticated_request_four(
    request_proof: dict[str, Any], grade: int
) -> None:
    asked = admitted(msgspec.structs.replace(ASKED_FOR, **request_proof), now=NOW - SECOND)
    first = asked.entries[0].id

    assert choice_recorded(admitted(confirmation(names=first), asked.state)).evidence_grade == grade


def test_all_requests_of_one_write_have_the_name_of_the_first() -> None:
    asked = command(choice(purpose="doi"), choice(purpose="doi", channels=("sms",)), choice("request"), offer=None)
    admission = admitted(asked)

    names = [entry.event.names for entry in admission.entries if isinstance(entry.event, ConsentRecorded)]
    assert names == ["new 1"] * 3


def test_one_confirmation_of_a_write_after_the_other_confirms_each_of_its_requests() -> None:
    requests = [choice(purpose="doi", channels=(channel,)) for channel in ("email", "sms")]
    state = after(command(*requests))

    both = admitted(
        command(*(Choice(kind="confirm", purpose="doi", names="before 0 1"),) * 2, offer=None, evidence=CONFIRMED),
        state,
    )
    assert [choice_recorded(both, position).names for position in (0, 1)] == ["before 0 1", "before 0 2"]
    assert {settle(both.state.on("doi"), channel).state for channel in ("email", "sms")} == {"granted"}


def test_a_second_confirmation_adds_nothing_and_is_no_error() -> None:
    state = after(ASKED_FOR, confirmation())
    admission = admitted(confirmation(), state)

    assert [against and against.entry for against in admission.obstacles] == ["before 1 1"]
    assert settle(admission.state.on("doi"), None).decided_by == settle(state.on("doi"), None).decided_by


def test_a_link_that_is_followed_after_a_grant_that_needed_no_confirmation_is_no_error_either() -> None:
    state = after(ASKED_FOR, command(choice(purpose="doi"), evidence=CONFIRMED))
    admission = admitted(confirmation(), state)

    assert settle(admission.state.on("doi"), None).decided_by == settle(state.on("doi"), None).decided_by


def test_a_confirmation_after_a_refusal_needs_a_request_made_since() -> None:
    state = after(command(choice("object", purpose="doi")), ASKED_FOR)
    admission = admitted(confirmation(names="before 1 1"), state)

    assert settle(admission.state.on("doi"), None).state == "granted"


# --- renewals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "renewal", "grade"),
    [
        ({"offer": None}, {"offer": None}, 1),
        ({"evidence": CONFIRMED}, {"offer": None}, 3),
        ({"offer": None}, {}, 2),
    ],
)
def test_a_renewal_keeps_notice_and_grade_of_what_it_renews_or_brings_a_better_one(
    given: dict[str, Any], renewal: dict[str, Any], grade: int
) -> None:
    granted = admitted(command(GRANT, **given), now=NOW - SECOND).state
    notice = "nl@3" if "offer" not in renewal else None  # an offer shows one; else that of the grant is taken over

    recorded = choice_recorded(admitted(command(choice("renew", notice=notice), **renewal), granted, name="again"))
    assert (recorded.kind, recorded.notice, recorded.evidence_grade) == ("renew", "nl@3", grade)


def test_what_is_reported_later_than_the_policy_allows_proves_nothing_renewals_and_confirmations_too() -> None:
    shown, then = msgspec.structs.replace(OFFER, issued_at=LIMIT - DAY), Act("link", LIMIT - 2 * SECOND)
    proved = Evidence(authentication=then, confirmation=then)
    granted = admitted(command(GRANT, evidence=proved, offer=shown), now=LIMIT - SECOND).state
    asked_for = admitted(command(choice("request"), evidence=proved, offer=shown), now=LIMIT - SECOND).state

    for claimed_at, grades in ((LIMIT, (0, 0)), (LIMIT + 1, (4, 4))):
        renewal = command(choice("renew", claimed_at=claimed_at), offer=None)
        confirm = command(choice("confirm", names="offer", claimed_at=claimed_at), offer=None)
        found = (choice_recorded(admitted(renewal, granted)), choice_recorded(admitted(confirm, asked_for)))
        assert grades == tuple(recorded.evidence_grade for recorded in found)


def test_of_several_channels_a_renewal_keeps_the_lowest_grade() -> None:
    weak, strong = (command(choice(channels=(channel,)), **more) for channel, more in (("sms", {}), ("email", {"evidence": CONFIRMED})))  # fmt: skip
    state = admitted(weak, admitted(strong, now=NOW - 2 * SECOND).state, now=NOW - SECOND, name="b").state
    asked = command(choice("renew", channels=("email", "sms")), offer=None)

    assert choice_recorded(admitted(asked, state)).evidence_grade == 2


def test_a_renewal_counts_from_when_the_person_renewed_also_where_it_is_reported_after_the_end() -> None:
    ending = after(command(choice(valid_until=NOW - SECOND)))
    admission = admitted(command(choice("renew", claimed_at=NOW - 2 * SECOND), offer=None), ending)

    assert admission.obstacles == (None,)
    assert isinstance(decided(command(choice("renew", claimed_at=NOW - SECOND), offer=None), ending), Refusal)


@pytest.mark.parametrize(("shown", "grade"), [(None, 1), (OFFER, 2)])
def test_a_renewal_of_another_notice_has_to_prove_what_it_agrees_to_anew(shown: ShownOffer | None, grade: int) -> None:
    (grant,) = admitted(command(GRANT, evidence=BOTH), now=NOW - SECOND).state.on("nl")
    older = DataSubjectState(consents={"nl": (msgspec.structs.replace(grant, notice="nl@2"),)})

    recorded = choice_recorded(admitted(command(choice("renew", notice="nl@3"), offer=shown), older, name="again"))
    assert (recorded.evidence_grade, recorded.renews) == (grade, (grant.entry,))


@pytest.mark.parametrize(("since", "kind", "grade"), [(-1, "request", 2), (0, "request", 2), (1, "grant", 3)])
def test_a_confirmation_counts_only_if_it_is_later_than_the_refusal_that_stands(
    since: int, kind: str, grade: int
) -> None:
    refused = after(command(choice("withdraw", purpose="doi")))
    at = refused.on("doi")[0].occurred_at + since
    asked = command(choice(purpose="doi"), evidence=Evidence(confirmation=Act("link", at)))

    recorded = choice_recorded(admitted(asked, refused))
    assert (recorded.kind, recorded.evidence_grade) == (kind, grade)


def test_an_import_lifts_a_refusal_by_its_confirmation_alone() -> None:
    """To have signed in since adds no grade to an import, so it is no evidence that is newer either."""
    refused = after(command(choice("withdraw")))
    at = refused.on("nl")[0].occurred_at
    for confirmed, lifts in ((at - 1, False), (at + 1, True)):
        evidence = Evidence(confirmation=Act("link", confirmed), authentication=Act("password", at + 1))
        admission = decided(msgspec.structs.replace(IMPORTED, evidence=evidence), refused)
        assert isinstance(admission, Admitted) is lifts


# --- what is declared void ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", ["operator", "system"])
def test_the_controller_declares_a_named_entry_void_and_the_one_before_it_holds_again(actor: Actor) -> None:
    state = after(command(choice(channels=("sms",))), command(choice("withdraw", channels=("sms",))))
    admission = admitted(command(choice("invalidate", names="before 1 1"), actor=actor), state)

    recorded = choice_recorded(admission)
    assert admission.entries[0].kind == "consent.invalidated"
    assert (recorded.names, recorded.channels, recorded.notice) == ("before 1 1", ("sms",), None)
    assert settle(admission.state.on("nl"), "sms").state == "granted"


def test_where_two_must_agree_a_permission_may_still_be_voided_by_one() -> None:
    asked = command(choice("invalidate", names="before 0 1"), actor="operator", voids_refusals=False)

    assert settle(admitted(asked, GRANTED).state.on("nl"), None).state == "unknown"


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


def test_an_offer_names_one_entry_also_where_a_restriction_follows_the_facts() -> None:
    entries = admitted(command(GRANT, restriction=Restriction(), facts=ALL_FACTS)).entries

    assert [entry.id for entry in entries] == ["offer", "new 1", "new 2"]


@pytest.mark.parametrize("previous", [None, "last"])
@pytest.mark.parametrize("facts", [Facts(), ALL_FACTS])
def test_each_entry_names_the_one_before_it(previous: str | None, facts: Facts) -> None:
    admission = decided(command(GRANT, choice("object", purpose="ads"), GRANT, facts=facts), previous=previous)

    assert isinstance(admission, Admitted)
    expected = [previous, *(entry.id for entry in admission.entries[:-1])]
    assert expected == [entry.event.previous for entry in admission.entries]


def test_the_state_after_is_the_fold_of_the_entries() -> None:
    asked = command(
        GRANT, choice("object", purpose="ads"), choice("withdraw", channels=("sms",)), facts=ALL_FACTS,
        restriction=Restriction(), asked=("nl",),
    )  # fmt: skip
    admission = admitted(asked, REFUSED)

    assert fold([Entry(entry.id, NOW, entry.event) for entry in admission.entries], REFUSED) == admission.state


@pytest.mark.parametrize("kind", get_args(ConsentKind))
def test_each_kind_of_choice_has_its_own_kind_of_entry(kind: ConsentKind) -> None:
    state = after(command(choice("request")), command(GRANT))
    names = {"confirm": "before 0 1", "invalidate": "before 1 1"}.get(kind)
    asked = choice(kind, names=names, notice="nl@3" if kind in (*PERMISSIVE, "acknowledge") else None)
    admission = admitted(command(asked, actor="operator" if kind == "invalidate" else "data_subject"), state)

    assert [entry.kind for entry in admission.entries] == [ENTRY_KINDS[kind]]


# --- restriction of processing, questions -------------------------------------------------------------------------

IN_DISPUTE = DataSubjectState(restriction=Fact("then", "data_subject.restricted", NOW - DAY))


@pytest.mark.parametrize(
    ("state", "asked", "kind"),
    [
        (EMPTY, Restriction(ground="accuracy disputed"), "data_subject.restricted"),
        (IN_DISPUTE, Restriction(), None),
        (IN_DISPUTE, Restriction(lifted=True), "data_subject.restriction_lifted"),
        (EMPTY, Restriction(lifted=True), None),
    ],
)
def test_processing_is_restricted_and_released_once(
    state: DataSubjectState, asked: Restriction, kind: str | None
) -> None:
    admission = admitted(command(restriction=asked, offer=None), state)

    assert [entry.kind for entry in admission.entries] == ([] if kind is None else [kind])
    assert (admission.state.restriction is None) is asked.lifted
    if kind is not None:
        assert admission.entries[0].event == ProcessingRestricted(
            lifted=asked.lifted, ground=asked.ground, occurred_at=NOW, claimed_at=NOW, actor="data_subject",
            component="web", method="web_form", surface="/signup",
        )  # fmt: skip
        assert admission.obstacles == (None,)


def test_that_a_person_was_asked_is_recorded_with_the_purposes() -> None:
    (entry,) = admitted(command(asked=("ads", "nl"), actor="system", offer=None)).entries

    assert (entry.kind, entry.purposes) == ("consent.asked", ("ads", "nl"))
    assert isinstance(entry.event, Asked)
    assert entry.event.purposes == ("ads", "nl")


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        (command(), 1),
        (command(GRANT, GRANT), 3),
        (command(GRANT, restriction=Restriction(), asked=("nl",)), 4),
    ],
)
def test_a_command_needs_at_most_so_many_ids(asked: Command, most: int) -> None:
    assert most == most_entries(asked)
    assert len(admitted(msgspec.structs.replace(asked, facts=ALL_FACTS)).entries) == most


def test_facts_come_first_then_restriction_and_question_then_choices() -> None:
    asked = command(GRANT, restriction=Restriction(), asked=("nl",), facts=ALL_FACTS, offer=None)
    entries = admitted(asked).entries

    assert [(entry.id, entry.kind) for entry in entries] == [
        ("new 0", "data_subject.updated"), ("new 1", "data_subject.restricted"), ("new 2", "consent.asked"),
        ("new 3", "consent.granted"),
    ]  # fmt: skip
    assert [entry.event.previous for entry in entries] == [None, "new 0", "new 1", "new 2"]


# --- facts --------------------------------------------------------------------------------------------------------

EMAIL, PHONE = Identifier("email", "ana@example.org"), Identifier("phone", "+491701234567")
VERIFIED = Identifier("email", "ana@example.org", NOW - DAY)
KNOWN = DataSubjectState(identifiers=(EMAIL,), jurisdiction="DE", time_zone="Europe/Berlin", locale="de")

PARENT = MINOR.guardians["parent"]
NO_LONGER = msgspec.structs.replace(PARENT, until=NOW)
CUSTOMER = DataSubjectState(relations={"purchase": Fact("then", "data_subject.updated", NOW - DAY)})


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
        (Facts(birth_date="2011-07-02"), EMPTY, {"birth_date": "2011-07-02"}),
        (Facts(birth_date="2011-07-02"), MINOR, None),
        (Facts(birth_date=""), MINOR, {"birth_date": ""}),
        (Facts(guardian=PARENT), EMPTY, {"guardian": PARENT}),
        (Facts(guardian=PARENT), MINOR, None),
        (Facts(guardian=NO_LONGER), MINOR, {"guardian": NO_LONGER}),
        (Facts(relations=(BOUGHT, SIGNED)), EMPTY, {"relations": (BOUGHT, SIGNED)}),
        (Facts(relations=(BOUGHT, SIGNED)), CUSTOMER, {"relations": (SIGNED,)}),
        (Facts(relations=(msgspec.structs.replace(BOUGHT, at=NOW - 2 * DAY),)), CUSTOMER, None),
        (Facts(relations=(msgspec.structs.replace(BOUGHT, at=NOW + AHEAD_MS),)), CUSTOMER,
         {"relations": (msgspec.structs.replace(BOUGHT, at=NOW),)}),
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
