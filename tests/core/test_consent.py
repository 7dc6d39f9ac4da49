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
    in_force,
    insert,
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

events = st.builds(
    ConsentEvent,
    entry=st.uuids().map(str),
    kind=st.sampled_from(KINDS),
    occurred_at=st.integers(0, 6),
    recorded_at=st.just(10),
    actor=st.sampled_from(ACTORS),
    channels=st.sampled_from(((), ("email",), ("sms",), ("email", "sms"))),
    grade=st.integers(E0, E4),
    guard=st.integers(E2, E4),
    evidence_at=st.none() | st.integers(0, 8),
)
histories = st.lists(events, max_size=7, unique_by=lambda one: one.entry)


# --- the table of semantics, section 3 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        ("unknown", "grant", "granted"),
        ("unknown", "deny", "denied"),
        ("unknown", "withdraw", "withdrawn"),
        ("unknown", "object", "objected"),
        ("granted", "grant", "granted"),
        ("granted", "deny", "withdrawn"),
        ("granted", "withdraw", "withdrawn"),
        ("granted", "object", "objected"),
        ("denied", "grant", "granted"),
        ("denied", "deny", "denied"),
        ("denied", "withdraw", "denied"),
        ("denied", "object", "objected"),
        ("withdrawn", "grant", "granted"),
        ("withdrawn", "deny", "withdrawn"),
        ("withdrawn", "withdraw", "withdrawn"),
        ("withdrawn", "object", "objected"),
        ("objected", "grant", "granted"),
        ("objected", "deny", "objected"),
        ("objected", "withdraw", "objected"),
        ("objected", "object", "objected"),
    ],
)
def test_each_cell_of_the_state_table_holds(before: Settled, kind: ConsentKind, after: Settled) -> None:
    lead = LEADS_TO[before]
    assert before == state_after(*lead)

    assert after == state_after(*lead, event(kind, 9))


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
        (GUARDIAN, {}, True),
        (GUARDIAN, {"grade": E1}, False),
        (GUARDIAN, {"occurred_at": 3}, False),
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
@given(histories, events.filter(lambda one: one.restrictive))
@example(
    [event("grant", 2, grade=E1), event("withdraw", 4), event("grant", 6, actor="import", grade=E3, evidence_at=3)],
    event("withdraw", 1),
)
def test_one_more_restriction_never_makes_a_channel_granted(
    history: list[ConsentEvent], restriction: ConsentEvent
) -> None:
    for channel in CHANNELS:
        before, after = state_after(*history, channel=channel), state_after(*history, restriction, channel=channel)

        assert before in ("granted", "unknown") or after != "granted"
        assert after != "unknown" or before == "unknown"


@settings(deadline=None)
@given(histories)
def test_a_grant_decides_only_against_refusals_that_it_may_lift(history: list[ConsentEvent]) -> None:
    for channel in CHANNELS:
        chain = [one for one in ordered(*history) if one.covers(channel)]
        standing = settle(ordered(*history), channel)

        if standing.state == "granted":
            last = max((position for position, one in enumerate(chain) if one.restrictive), default=None)
            assert standing.decided_by == chain[-1]
            assert last is None or any(may_lift(one, chain[last]) for one in chain[last + 1 :])


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


@settings(deadline=None)
@given(histories)
def test_what_holds_is_what_the_standings_say(history: list[ConsentEvent]) -> None:
    folded = ordered(*history)
    for one in history:
        covered = [settle(folded, channel) for channel in one.channels or scopes(folded)]

        expected = (
            all(standing.state != "granted" for standing in covered)
            if one.restrictive
            else any(standing.decided_by == one for standing in covered)
        )
        assert expected is (in_force(folded, one) is None)
