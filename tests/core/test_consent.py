"""One purpose's choices fold to a standing a channel: the last in effect order decides; a refusal is hard to lift."""

from __future__ import annotations

from itertools import permutations
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volenti.core.consent import (
    E0,
    E1,
    E2,
    E3,
    E4,
    Actor,
    ConsentEvent,
    ConsentKind,
    Settled,
    Standing,
    barrier,
    choices_of,
    in_force,
    insert,
    live,
    may_lift,
    scopes,
    settle,
)

KINDS: tuple[ConsentKind, ...] = get_args(ConsentKind)
RESTRICTIVE: tuple[ConsentKind, ...] = ("deny", "withdraw", "object")
ACTORS: tuple[Actor, ...] = get_args(Actor)
STATES: tuple[Settled, ...] = get_args(Settled)
CHANNELS = (None, "email", "sms")


def event(kind: ConsentKind, at: int, *channels: str, **members: Any) -> ConsentEvent:
    """The person's own act at E2, named after what it is."""
    named = {"entry": f"{kind}@{at}", "recorded_at": at, "actor": "data_subject", "grade": E2, **members}
    return ConsentEvent(kind=kind, occurred_at=at, channels=channels, **named)


def ordered(*events: ConsentEvent) -> tuple[ConsentEvent, ...]:
    """The events as they arrive, in effect order."""
    folded: tuple[ConsentEvent, ...] = ()
    for one in events:
        folded = insert(folded, one)
    return folded


def state_after(*events: ConsentEvent, channel: str | None = None) -> Settled:
    return settle(ordered(*events), channel).state


LEADS_TO: dict[Settled, tuple[ConsentEvent, ...]] = {
    "unknown": (),
    "granted": (event("grant", 1),),
    "denied": (event("deny", 1),),
    "withdrawn": (event("grant", 1), event("withdraw", 2)),
    "objected": (event("object", 1),),
}
"""How each settled state is reached."""

ENTRIES = tuple("abcdefg")
events = st.builds(
    ConsentEvent,
    entry=st.sampled_from(ENTRIES),
    kind=st.sampled_from(KINDS),
    occurred_at=st.integers(0, 6),
    recorded_at=st.just(10),
    actor=st.sampled_from(ACTORS),
    channels=st.sampled_from(((), ("email",), ("sms",), ("email", "sms"))),
    grade=st.integers(E0, E4),
    guard=st.integers(E2, E4),
    evidence_at=st.none() | st.integers(0, 8),
    valid_until=st.none() | st.integers(1, 8),
    names=st.none() | st.sampled_from(ENTRIES),
)
histories = st.lists(events, max_size=7, unique_by=lambda one: one.entry)
restrictions = st.builds(
    lambda one, kind: msgspec.structs.replace(one, entry="restriction", kind=kind),
    events,
    st.sampled_from(RESTRICTIVE),
)


# --- what settles, and what does not (each cell of the table of states is in test_admission) ----------------------

REQUEST = event("request", 5)
CONFIRMATION = event("confirm", 7, names="request@5")


@pytest.mark.parametrize("beneath", STATES)
def test_a_request_waits_over_the_state_beneath_and_changes_it_not(beneath: Settled) -> None:
    standing, waiting = (settle(ordered(*LEADS_TO[beneath], *more), None) for more in ((), (REQUEST,)))

    assert waiting == msgspec.structs.replace(standing, pending=REQUEST)


@pytest.mark.parametrize("beneath", STATES)
def test_its_confirmation_grants_whatever_stood_beneath(beneath: Settled) -> None:
    standing = settle(ordered(*LEADS_TO[beneath], REQUEST, CONFIRMATION), None)

    assert standing == Standing("granted", CONFIRMATION)


@pytest.mark.parametrize(
    "between",
    [
        *(event(kind, 6) for kind in RESTRICTIVE),
        event("request", 6),
        event("invalidate", 6, names="request@5"),
    ],
    ids=lambda one: one.kind,
)
def test_a_confirmation_counts_for_nothing_once_its_request_no_longer_waits(between: ConsentEvent) -> None:
    history = ordered(REQUEST, between)

    assert settle(history, None) == settle(ordered(*history, CONFIRMATION), None)


@pytest.mark.parametrize("changes", [{"occurred_at": 4}, {"names": "request@4"}, {"names": None}, {"grade": E1}])
def test_a_confirmation_that_is_older_names_another_request_or_fails_the_guard_grants_nothing(
    changes: dict[str, Any],
) -> None:
    confirmation = msgspec.structs.replace(CONFIRMATION, **changes)

    assert state_after(event("deny", 1), REQUEST, confirmation) == "denied"


def test_a_request_of_one_channel_leaves_that_of_the_others_waiting() -> None:
    fresh = event("request", 6, "email")
    history = ordered(REQUEST, fresh, CONFIRMATION)

    assert settle(history, "email").pending == fresh
    assert settle(history, "email").state == "unknown"
    assert settle(history, "sms").decided_by == CONFIRMATION


def test_a_renewal_takes_the_place_of_what_it_renews_and_of_nothing_else() -> None:
    renewal = event("renew", 5, renews=("grant@1",))

    assert settle(ordered(event("grant", 1), renewal), None).decided_by == renewal
    assert settle(ordered(event("grant", 2), renewal), None).decided_by == event("grant", 2)
    for state in ("unknown", "denied", "withdrawn", "objected"):
        assert settle(ordered(*LEADS_TO[state], renewal), None) == settle(ordered(*LEADS_TO[state]), None)


@pytest.mark.parametrize(("end", "renewed"), [(None, True), (6, True), (5, False), (4, False)])
def test_a_consent_that_had_come_to_its_own_end_is_not_renewed(end: int | None, renewed: bool) -> None:
    renewal = event("renew", 5, renews=("grant@1",))
    standing = settle(ordered(event("grant", 1, valid_until=end), renewal), None)

    assert renewed is (standing.decided_by == renewal)


def test_a_renewal_falls_with_the_grant_that_it_renewed_and_does_not_revive_an_older_one() -> None:
    history = ordered(
        event("grant", 1),
        event("grant", 3),
        event("renew", 5, renews=("grant@3",)),
        event("renew", 6, renews=("renew@5",)),
        event("invalidate", 7, names="grant@3"),
    )
    assert settle(history, None).decided_by == event("grant", 1)


def test_a_renewal_that_came_to_nothing_by_a_late_withdrawal_does_not_grant() -> None:
    assert state_after(event("grant", 1), event("renew", 5, renews=("grant@1",)), event("withdraw", 3)) == "withdrawn"


@pytest.mark.parametrize("state", STATES)
def test_an_acknowledgement_grants_and_refuses_nothing(state: Settled) -> None:
    lead = ordered(*LEADS_TO[state])

    assert settle(lead, None) == settle(ordered(*lead, event("acknowledge", 9)), None)


@settings(deadline=None)
@given(histories, st.sampled_from(ENTRIES), st.integers(0, 9))
def test_what_is_declared_void_is_as_if_it_had_never_been(history: list[ConsentEvent], entry: str, when: int) -> None:
    """By its name alone: the date of the declaration does not matter, and nothing else is touched."""
    declaration = event("invalidate", when, entry="declaration", names=entry)
    without = [one for one in history if one.entry != entry or one.kind == "invalidate"]

    for channel in CHANNELS:
        expected = settle(ordered(*without), channel)
        assert expected == settle(ordered(*history, declaration), channel)


def test_a_declaration_cannot_be_declared_void() -> None:
    history = ordered(
        event("grant", 1),
        event("invalidate", 2, entry="declaration", names="grant@1"),
        event("invalidate", 3, entry="more", names="declaration"),
    )

    assert settle(history, None).state == "unknown"


@pytest.mark.parametrize("state", ["denied", "withdrawn", "objected"])
def test_a_grant_that_fails_the_guard_leaves_the_refusal_as_it_stands(state: Settled) -> None:
    lead = LEADS_TO[state]

    assert settle(ordered(*lead), None) == settle(ordered(*lead, event("grant", 9, grade=E1)), None)


@pytest.mark.parametrize("kind", RESTRICTIVE)
@pytest.mark.parametrize("state", STATES)
def test_a_restriction_needs_no_proof_no_notice_and_no_particular_actor(state: Settled, kind: ConsentKind) -> None:
    for actor in ACTORS:
        after = state_after(*LEADS_TO[state], event(kind, 9, actor=actor, grade=E0))

        assert after in ("denied", "withdrawn", "objected")


def test_a_fresh_grant_takes_the_place_of_a_standing_one() -> None:
    fresh = event("grant", 9, grade=E0, actor="operator")

    assert fresh == settle(ordered(event("grant", 1), fresh), None).decided_by


@pytest.mark.parametrize(("first", "second", "state"), [
    ("deny", "withdraw", "denied"), ("withdraw", "deny", "withdrawn"), ("object", "withdraw", "objected"),
    ("withdraw", "object", "objected"), ("deny", "object", "objected"), ("object", "deny", "objected"),
])  # fmt: skip
def test_of_two_restrictions_at_one_instant_the_index_decides_the_name_alone(
    first: ConsentKind, second: ConsentKind, state: Settled
) -> None:
    assert state == state_after(event(first, 1), event(second, 1))


# --- the re-permission guard --------------------------------------------------------------------------------------

PERSON = event("grant", 5)
GUARDIAN = event("grant", 5, actor="guardian")
OPERATOR = event("grant", 5, actor="operator", grade=E3, evidence_at=4)
IMPORTED = event("grant", 5, actor="import", grade=E3, evidence_at=4)


@pytest.mark.parametrize("refusal", [event(kind, 3) for kind in RESTRICTIVE], ids=lambda one: one.kind)
@pytest.mark.parametrize(
    ("grant", "changes", "lifts"),
    [
        (PERSON, {}, True),
        (PERSON, {"grade": E4}, True),
        (PERSON, {"occurred_at": 3}, False),
        (PERSON, {"occurred_at": 2}, False),
        (PERSON, {"grade": E1}, False),
        (PERSON, {"grade": E0}, False),
        (PERSON, {"guard": E3}, False),
        (PERSON, {"guard": E3, "grade": E3}, True),
        (PERSON, {"guard": E4, "grade": E3}, False),
        (PERSON, {"guard": E0, "grade": E1}, False),
        (PERSON, {"guard": E0}, True),
        (PERSON, {"actor": "operator"}, False),
        (PERSON, {"actor": "import"}, False),
        (PERSON, {"actor": "system"}, False),
        (GUARDIAN, {}, False),
        (GUARDIAN, {"grade": E4}, False),
        (OPERATOR, {}, True),
        (OPERATOR, {"grade": E2}, False),
        (OPERATOR, {"evidence_at": None}, False),
        (OPERATOR, {"evidence_at": 3}, False),
        (OPERATOR, {"evidence_at": 2}, False),
        (OPERATOR, {"occurred_at": 3}, False),
        (OPERATOR, {"guard": E4}, False),
        (OPERATOR, {"guard": E4, "grade": E4}, True),
        (IMPORTED, {}, True),
        (IMPORTED, {"grade": E2}, False),
        (IMPORTED, {"evidence_at": None}, False),
        (IMPORTED, {"evidence_at": 3}, False),
        (IMPORTED, {"occurred_at": 3}, False),
        (IMPORTED, {"guard": E4}, False),
        (IMPORTED, {"actor": "system", "grade": E4}, False),
    ],
)
def test_a_grant_lifts_a_refusal_only_if_every_condition_of_the_guard_holds(
    refusal: ConsentEvent, grant: ConsentEvent, changes: dict[str, Any], lifts: bool
) -> None:
    changed = msgspec.structs.replace(grant, **changes)

    assert lifts is may_lift(changed, refusal)
    assert lifts is (settle(ordered(refusal, changed), None).state == "granted")


@pytest.mark.parametrize("refuser", [actor for actor in ACTORS if actor != "data_subject"])
@pytest.mark.parametrize(
    ("changes", "lifts"),
    [
        ({}, True),
        ({"grade": E1}, False),
        ({"guard": E3}, False),
        ({"occurred_at": 3}, False),
        ({"actor": "data_subject"}, True),
        ({"actor": "operator", "grade": E4}, False),
        ({"actor": "system", "grade": E4}, False),
    ],
)
def test_a_guardian_may_lift_what_others_than_the_person_refused(
    refuser: Actor, changes: dict[str, Any], lifts: bool
) -> None:
    refusal = event("withdraw", 3, actor=refuser)
    changed = msgspec.structs.replace(GUARDIAN, **changes)

    assert lifts is may_lift(changed, refusal)
    assert lifts is (settle(ordered(refusal, changed), None).state == "granted")


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
@pytest.mark.parametrize("kind", RESTRICTIVE)
@pytest.mark.parametrize("other", ["guardian", "operator", "system", "import"])
def test_what_others_refuse_later_does_not_hide_the_persons_own_refusal_from_a_guardian(
    other: Actor, kind: ConsentKind, arrival: tuple[int, ...]
) -> None:
    history = (event(kind, 1), event("withdraw", 3, actor=other), GUARDIAN)
    arrived = ordered(*(history[index] for index in arrival))

    assert settle(arrived, None).state != "granted"
    assert barrier(GUARDIAN, settle(ordered(*history[:2]), None)) == history[0]


def test_the_persons_own_permission_clears_their_refusal_for_a_guardian_too() -> None:
    history = (event("deny", 1), event("grant", 2), event("withdraw", 3, actor="guardian"), GUARDIAN)

    assert settle(ordered(*history), None) == Standing("granted", GUARDIAN)


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
@pytest.mark.parametrize(("first", "second"), [("withdraw", "withdraw"), ("deny", "withdraw"), ("object", "deny")])
def test_what_is_relayed_must_be_newer_than_the_latest_refusal_not_only_the_first(
    first: ConsentKind, second: ConsentKind, arrival: tuple[int, ...]
) -> None:
    history = (event(first, 1), event(second, 3), event("grant", 5, actor="import", grade=E3, evidence_at=2))

    assert state_after(*(history[index] for index in arrival)) != "granted"


def test_a_repeated_refusal_keeps_the_name_and_the_entry_of_the_first() -> None:
    refusal = event("object", 1)
    standing = settle(ordered(refusal, event("withdraw", 2), event("deny", 3)), None)

    assert ("objected", refusal) == (standing.state, standing.decided_by)


def test_once_lifted_a_refusal_binds_no_later_grant() -> None:
    assert state_after(event("deny", 1), event("grant", 2), event("grant", 3, grade=E0, actor="import")) == "granted"


# --- the order of effect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RESTRICTIVE)
@pytest.mark.parametrize("grade", [E0, E2, E4])
def test_a_restriction_wins_over_an_equally_dated_grant_in_every_order_of_arrival(
    kind: ConsentKind, grade: int
) -> None:
    history = (event("grant", 5, grade=grade), event(kind, 5), event("grant", 5, entry="again", grade=grade))

    for arrival in permutations(history):
        assert state_after(*arrival) not in ("granted", "unknown")


def test_an_equally_dated_refusal_by_an_import_wins_over_the_persons_grant() -> None:
    refusal = event("deny", 5, actor="import", grade=E0)

    for arrival in permutations((event("grant", 5, grade=E4), refusal)):
        assert state_after(*arrival) == "withdrawn"


@pytest.mark.parametrize(("grade", "state"), [(E1, "withdrawn"), (E2, "granted")])
def test_a_late_withdrawal_that_occurred_before_the_grant_leaves_it_only_if_it_passes_the_guard(
    grade: int, state: Settled
) -> None:
    history = (event("grant", 5, grade=grade), event("withdraw", 3))

    for arrival in permutations(history):
        assert state == state_after(*arrival)


@settings(deadline=None)
@given(histories)
def test_whether_a_channel_is_granted_does_not_depend_on_the_order_of_arrival(history: list[ConsentEvent]) -> None:
    """Even where the index breaks ties; only a request, its confirmation and a renewal cannot be told apart there."""
    history = [one for one in history if one.kind not in ("request", "confirm", "renew")]
    for channel in CHANNELS:
        expected = state_after(*history, channel=channel)

        for arrival in (history[::-1], sorted(history, key=lambda one: one.entry)):
            assert (expected == "granted") is (state_after(*arrival, channel=channel) == "granted")


@settings(deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_standings_do_not_depend_on_the_order_of_arrival_unless_index_breaks_a_tie(
    history: list[ConsentEvent], random: Any
) -> None:
    distinct = list({(one.occurred_at, one.restrictive): one for one in history}.values())
    shuffled = random.sample(distinct, len(distinct))

    assert ordered(*distinct) == ordered(*shuffled)


@settings(deadline=None)
@given(histories, restrictions)
@example(
    [event("grant", 2, grade=E1), event("withdraw", 4), event("grant", 6, actor="import", grade=E3, evidence_at=3)],
    event("withdraw", 1, entry="restriction"),
)
@example([event("deny", 1), GUARDIAN], event("withdraw", 3, entry="restriction", actor="guardian"))
@example([REQUEST, CONFIRMATION], event("withdraw", 6, entry="restriction"))
def test_one_more_restriction_never_makes_a_channel_granted(
    history: list[ConsentEvent], restriction: ConsentEvent
) -> None:
    for channel in CHANNELS:
        before, after = (settle(ordered(*more), channel) for more in (history, [*history, restriction]))

        assert before.state == "granted" or after.state != "granted"
        assert before.state == "granted" or after.pending in (before.pending, None)
        assert after.state != "unknown" or before.state == "unknown"


@settings(deadline=None)
@given(histories)
def test_a_permission_decides_only_against_refusals_that_were_lifted(history: list[ConsentEvent]) -> None:
    for channel in CHANNELS:
        chain = [one for one in live(ordered(*history)) if channel in (one.channels or (channel,))]
        standing = settle(ordered(*history), channel)

        if standing.state == "granted":
            assert standing.decided_by is not None
            assert standing.decided_by.kind in ("grant", "confirm", "renew")
            position = max((position for position, one in enumerate(chain) if one.restrictive), default=-1)
            later = chain[position + 1 :]
            assert standing.decided_by in later
            assert position < 0 or any(
                may_lift(one, chain[position]) for one in later if one.kind in ("grant", "confirm")
            )


# --- the scope of channels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ((event("grant", 1),), ("granted", "granted", "granted")),
        ((event("grant", 1, "sms"),), ("unknown", "unknown", "granted")),
        ((event("grant", 1, "email", "sms"),), ("unknown", "granted", "granted")),
        ((event("grant", 1), event("withdraw", 2, "email")), ("granted", "withdrawn", "granted")),
        ((event("grant", 1, "email"), event("withdraw", 2)), ("withdrawn", "withdrawn", "withdrawn")),
        ((event("deny", 1), event("grant", 2, "sms")), ("denied", "denied", "granted")),
        ((event("deny", 1, "sms"), event("grant", 2)), ("granted", "granted", "granted")),
        ((event("deny", 1, "sms"), event("grant", 2, grade=E1)), ("granted", "granted", "denied")),
        ((event("object", 1, "email"),), ("unknown", "objected", "unknown")),
        ((event("grant", 1, "sms"), event("withdraw", 2, "email")), ("unknown", "withdrawn", "granted")),
    ],
)
def test_an_event_decides_the_channels_that_it_names_and_else_all(
    history: tuple[ConsentEvent, ...], expected: tuple[Settled, ...]
) -> None:
    assert expected == tuple(state_after(*history, channel=channel) for channel in CHANNELS)


def test_each_channel_that_is_named_has_a_standing_of_its_own() -> None:
    history = ordered(event("grant", 1), event("withdraw", 2, "sms", "email"), event("grant", 3, "email"))

    assert scopes(history) == (None, "email", "sms")
    assert scopes(()) == (None,)


@settings(deadline=None)
@given(histories)
def test_choices_folded_once_stand_as_folded_for_each_channel(history: list[ConsentEvent]) -> None:
    folded = choices_of(ordered(*history))
    channels = (*CHANNELS, "post")

    expected = [settle(ordered(*history), channel) for channel in channels]
    assert expected == [folded.standing(channel) for channel in channels]
    objections = [one.decided_by for one in expected if one.state == "objected"]
    assert (folded.objection() in objections) if objections else (folded.objection() is None)


# --- what is in force ---------------------------------------------------------------------------------------------

GRANT, SMS_GRANT, DENIAL, SMS_DENIAL = (
    event("grant", 5),
    event("grant", 5, "sms"),
    event("deny", 5),
    event("deny", 5, "sms"),
)


@pytest.mark.parametrize(
    ("asked", "others", "by"),
    [
        (GRANT, (), None),
        (GRANT, (event("deny", 3),), None),
        (GRANT, (event("deny", 5),), "deny@5"),
        (GRANT, (event("withdraw", 7),), "withdraw@7"),
        (GRANT, (event("withdraw", 7, "sms"),), None),
        (GRANT, (event("grant", 7),), "grant@7"),
        (SMS_GRANT, (event("withdraw", 7, "email"),), None),
        (SMS_GRANT, (event("withdraw", 7, "sms"),), "withdraw@7"),
        (SMS_GRANT, (event("withdraw", 7),), "withdraw@7"),
        (DENIAL, (), None),
        (DENIAL, (event("object", 3),), None),
        (DENIAL, (event("withdraw", 7),), None),
        (DENIAL, (event("grant", 3),), None),
        (DENIAL, (event("grant", 7),), "grant@7"),
        (DENIAL, (event("grant", 7, "sms"),), "grant@7"),
        (DENIAL, (event("grant", 7, grade=E1),), None),
        (SMS_DENIAL, (event("grant", 7, "email"),), None),
        (SMS_DENIAL, (event("grant", 7),), "grant@7"),
        (SMS_DENIAL, (event("grant", 3),), None),
    ],
)
def test_what_an_event_asks_for_holds_or_the_event_in_its_way_is_named(
    asked: ConsentEvent, others: tuple[ConsentEvent, ...], by: str | None
) -> None:
    for arrival in permutations((asked, *others)):
        against = in_force(ordered(*arrival), asked)

        assert by == (against.entry if against is not None else None)


def test_a_grant_that_fails_the_guard_is_told_the_latest_refusal() -> None:
    grant = event("grant", 5, grade=E1)
    history = ordered(event("withdraw", 1), event("withdraw", 3), grant)

    against = in_force(history, grant)
    assert against is not None
    assert against.entry == "withdraw@3"


RENEWAL = event("renew", 8, renews=("grant@5",))
VOID = event("invalidate", 9, entry="void", names="grant@5")


@pytest.mark.parametrize(
    ("asked", "others", "by"),
    [
        (REQUEST, (), None),
        (REQUEST, (event("grant", 3),), None),
        (REQUEST, (event("grant", 7),), None),
        (REQUEST, (event("request", 7),), "request@7"),
        (REQUEST, (event("deny", 7),), "deny@7"),
        (REQUEST, (event("deny", 3),), None),
        (REQUEST, (CONFIRMATION,), None),
        (CONFIRMATION, (REQUEST,), None),
        (CONFIRMATION, (REQUEST, event("deny", 6)), "deny@6"),
        (CONFIRMATION, (REQUEST, event("request", 6)), "request@6"),
        (CONFIRMATION, (REQUEST, event("confirm", 6, names="request@5")), "confirm@6"),
        (CONFIRMATION, (REQUEST, event("invalidate", 8, entry="void", names="request@5")), "void"),
        (CONFIRMATION, (), "confirm@7"),
        (RENEWAL, (GRANT,), None),
        (RENEWAL, (GRANT, event("grant", 9)), "grant@9"),
        (RENEWAL, (GRANT, event("withdraw", 7)), "withdraw@7"),
        (RENEWAL, (GRANT, VOID), "void"),
        (GRANT, (VOID,), "void"),
        (GRANT, (VOID, event("grant", 7)), "void"),
        (DENIAL, (event("invalidate", 9, entry="void", names="deny@5"),), "void"),
        (GRANT, (RENEWAL,), "renew@8"),
        (VOID, (GRANT,), None),
        (event("acknowledge", 5), (event("deny", 7),), None),
    ],
)
def test_a_request_a_confirmation_and_a_renewal_hold_or_what_stands_in_their_way_is_named(
    asked: ConsentEvent, others: tuple[ConsentEvent, ...], by: str | None
) -> None:
    for arrival in permutations((asked, *others)):
        against = in_force(ordered(*arrival), asked)

        assert by == (against.entry if against is not None else None)


@settings(deadline=None)
@given(histories)
def test_what_holds_is_what_the_standings_say(history: list[ConsentEvent]) -> None:
    folded = ordered(*history)
    void = {one.names for one in folded if one.kind == "invalidate"}
    for one in history:
        covered = [settle(folded, channel) for channel in one.channels or scopes(folded)]

        if one.entry in void:
            expected = False
        elif one.kind in ("acknowledge", "invalidate"):
            expected = True
        elif one.restrictive:
            expected = all(standing.state != "granted" for standing in covered)
        elif one.kind == "request":
            expected = any(standing.pending == one or standing.state == "granted" for standing in covered)
        else:
            expected = any(standing.decided_by == one for standing in covered)
        assert expected is (in_force(folded, one) is None)
