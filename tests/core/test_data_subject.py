"""A person's state is the fold of their entries, of nothing else; events and states read back as they were written."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import permutations
from typing import Any, get_args
from unicodedata import normalize

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.consent import E2, E3, NO_CHOICES, Actor, ConsentEvent, ConsentKind, choices_of, settle
from volenti.core.data_subject import (
    ASKS_KEPT,
    EMPTY,
    ENTRY_KINDS,
    STATE_VERSION,
    Act,
    Asked,
    ConsentRecorded,
    DataSubjectState,
    DataSubjectUpdated,
    Entry,
    Event,
    Evidence,
    Fact,
    Guardian,
    Identifier,
    ProcessingRestricted,
    Prompt,
    Relation,
    Source,
    comes_of_age,
    consent_event,
    decode_event,
    decode_state,
    encode_event,
    encode_state,
    evolve,
    fold,
)
from volenti.core.entry import canonical
from volenti.core.policy.document import RelationType

PURPOSES = ("nl", "ads")
CHANNELS = (None, "email", "sms")
EMAIL = Identifier("email", "ana@example.org")
MAX_INTEGER = 2**53 - 1

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: normalize("NFC", text))
words = st.sampled_from(("", "web_form", "https://shop.example/?a=1&b=ü", '"\\\n\x00\x1f\x7f', "漢\u2028😀"))
times = st.integers(-MAX_INTEGER, MAX_INTEGER)
few_times = st.integers(0, 6)
identifiers = st.builds(
    Identifier, st.sampled_from(("id", "email", "phone", "device", "external")), texts, st.none() | times
)
acts = st.builds(Act, words, times)
evidence = st.builds(
    Evidence,
    ip_prefix=st.none() | words,
    user_agent=st.none() | texts,
    offer=st.none() | words,
    authentication=st.none() | acts,
    confirmation=st.none() | acts,
)
described: dict[str, Any] = {
    "actor": st.sampled_from(get_args(Actor)),
    "component": words,
    "method": st.none() | words,
    "surface": st.none() | words,
    "language": st.none() | words,
    "evidence": st.none() | evidence,
    "source": st.none() | st.builds(Source, words, words),
    "previous": st.none() | words,
}
choices: dict[str, Any] = {
    "kind": st.sampled_from(get_args(ConsentKind)),
    "purpose": st.sampled_from(PURPOSES),
    "channels": st.sampled_from(((), ("email",), ("sms",), ("email", "sms"))),
    "notice": st.none() | st.just("nl@3"),
    "jurisdiction": st.none() | words,
    "evidence_grade": st.integers(0, 4),
    "minimum_grade": st.integers(0, 4),
    "double_opt_in": st.booleans(),
    "age_of_consent": st.none() | st.integers(1, 30),
    "names": st.none() | words,
    "guardian": st.none() | words,
    "valid_from": st.none() | times,
    "valid_until": st.none() | times,
}
facts: dict[str, Any] = {
    "added": st.lists(identifiers, max_size=3).map(tuple),
    "removed": st.lists(identifiers, max_size=3).map(tuple),
    "jurisdiction": st.none() | st.sampled_from(("", "DE", "US-CA")),
    "time_zone": st.none() | words,
    "locale": st.none() | words,
    "birth_date": st.none() | st.sampled_from(("", "2011-07-02")),
    "guardian": st.none() | st.builds(Guardian, words, words, times, st.none() | times),
    "relations": st.lists(st.builds(Relation, st.sampled_from(RelationType), times), max_size=3).map(tuple),
    "blind_indexes": st.lists(words, max_size=2).map(tuple),
}
restricted = {"lifted": st.booleans(), "ground": st.none() | words}
asked = {"purposes": st.lists(st.sampled_from(PURPOSES), min_size=1, max_size=2).map(tuple)}
events: st.SearchStrategy[Event] = (
    st.builds(ConsentRecorded, occurred_at=times, claimed_at=times, **described, **choices)
    | st.builds(DataSubjectUpdated, occurred_at=times, claimed_at=times, **described, **facts)
    | st.builds(ProcessingRestricted, occurred_at=times, claimed_at=times, **described, **restricted)
    | st.builds(Asked, occurred_at=times, claimed_at=times, **described, **asked)
)
recorded = st.builds(
    ConsentRecorded, occurred_at=few_times, claimed_at=st.just(0), component=st.just("web"), actor=described["actor"],
    evidence=st.none() | st.builds(Evidence, confirmation=st.builds(Act, st.just("link"), few_times)), **choices,
)  # fmt: skip


def entries_of(*found: Event) -> tuple[Entry, ...]:
    return tuple(Entry(f"entry {position}", 10, event) for position, event in enumerate(found))


by_operator: dict[str, Any] = {
    "occurred_at": few_times,
    "claimed_at": few_times,
    "actor": st.just("operator"),
    "component": st.just("web"),
}
told: st.SearchStrategy[Event] = (
    st.builds(DataSubjectUpdated, **by_operator, **facts)
    | st.builds(ProcessingRestricted, **by_operator, **restricted)
    | st.builds(Asked, **by_operator, **asked)
)
entry_ids = st.integers(0, 10**9).map(str)
histories = st.lists(st.builds(Entry, entry_ids, st.integers(0, 9), told | recorded), max_size=4)
choice_histories = st.lists(
    st.builds(Entry, entry_ids, st.just(10), recorded), max_size=5, unique_by=lambda entry: entry.id
)


def chosen(kind: ConsentKind, at: int, **members: Any) -> ConsentRecorded:
    filled = {
        "purpose": "nl",
        "claimed_at": at,
        "actor": "data_subject",
        "component": "web",
        "evidence_grade": E2,
        **members,
    }
    return ConsentRecorded(kind=kind, occurred_at=at, **filled)


def restriction(at: int, *, lifted: bool = False) -> ProcessingRestricted:
    return ProcessingRestricted(occurred_at=at, claimed_at=at, actor="data_subject", component="web", lifted=lifted)


def question(at: int, *purposes: str) -> Asked:
    return Asked(occurred_at=at, claimed_at=at, actor="system", component="web", purposes=purposes)


def updated(**members: Any) -> DataSubjectUpdated:
    return DataSubjectUpdated(occurred_at=1, claimed_at=1, actor="data_subject", component="web", **members)


# --- the fold -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(histories, st.integers(0, 6))
def test_the_fold_may_be_interrupted_anywhere(entries: list[Entry], cut: int) -> None:
    assert fold(entries) == fold(entries[cut:], fold(entries[:cut]))


@settings(deadline=None)
@given(histories)
def test_what_is_stored_between_two_entries_changes_nothing(entries: list[Entry]) -> None:
    state = EMPTY
    for entry in entries:
        state = decode_state(encode_state(evolve(state, entry)))

    assert fold(entries) == state


@settings(deadline=None)
@given(choice_histories, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_a_standing(entries: list[Entry], random: Any) -> None:
    """Index breaks ties between equally restrictive events of one instant; elsewhere it decides nothing."""
    keys = {}
    for entry in entries:
        assert isinstance(entry.event, ConsentRecorded)
        permits = entry.event.kind not in ("deny", "withdraw", "object")
        keys[entry.event.purpose, entry.event.occurred_at, permits] = entry
    distinct = list(keys.values())
    state, shuffled = fold(distinct), fold(random.sample(distinct, len(distinct)))

    for purpose in PURPOSES:
        for channel in CHANNELS:
            assert settle(state.on(purpose), channel) == settle(shuffled.on(purpose), channel)


@pytest.mark.parametrize("kind", ["deny", "withdraw", "object"])
def test_every_permutation_of_grants_and_a_restriction_at_one_instant_denies(kind: ConsentKind) -> None:
    for arrival in permutations((chosen("grant", 5), chosen("grant", 5, evidence_grade=4), chosen(kind, 5))):
        assert settle(fold(entries_of(*arrival)).on("nl"), "email").state in ("denied", "withdrawn", "objected")


@settings(deadline=None)
@given(choice_histories, recorded)
def test_a_grant_dated_no_later_than_a_refusal_of_its_channels_never_takes_effect(
    entries: list[Entry], grant: ConsentRecorded
) -> None:
    state = fold(entries)
    for channel in CHANNELS:
        refusals = [one for one in state.on("nl") if one.restrictive and channel in (one.channels or (channel,))]
        latest = max((one.occurred_at for one in refusals), default=None)
        if latest is None:
            continue
        late = msgspec.structs.replace(grant, kind="grant", purpose="nl", occurred_at=min(grant.occurred_at, latest))
        after = evolve(state, Entry("late", 10, late))

        assert (settle(state.on("nl"), channel).state == "granted") >= (
            settle(after.on("nl"), channel).state == "granted"
        )
        standing = settle(after.on("nl"), channel).decided_by
        assert standing is None or standing.entry != "late"


@settings(deadline=None)
@given(choice_histories, recorded, st.sampled_from(("deny", "withdraw", "object")))
def test_a_restriction_takes_effect_from_every_state_and_repeating_it_changes_nothing(
    entries: list[Entry], restriction: ConsentRecorded, kind: ConsentKind
) -> None:
    last = msgspec.structs.replace(restriction, kind=kind, occurred_at=10)
    once = fold([*entries, Entry("first", 10, last)])
    twice = evolve(once, Entry("second", 11, last))

    for channel in last.channels or CHANNELS:
        standing, repeated = settle(once.on(last.purpose), channel), settle(twice.on(last.purpose), channel)
        assert standing.state in ("denied", "withdrawn", "objected")
        assert (standing.state, standing.decided_by) == (repeated.state, repeated.decided_by)


def test_choices_are_kept_by_purpose_and_in_effect_order() -> None:
    history = entries_of(
        chosen("grant", 5), chosen("withdraw", 3), chosen("deny", 5), chosen("grant", 4, purpose="ads")
    )
    state = fold(history)

    assert [(one.entry, one.kind) for one in state.on("nl")] == [
        ("entry 1", "withdraw"), ("entry 0", "grant"), ("entry 2", "deny"),
    ]  # fmt: skip
    assert [one.entry for one in state.on("ads")] == ["entry 3"]
    assert state.on("unknown") == ()


@pytest.mark.parametrize(
    ("minimum", "proof", "guard", "evidence_at"),
    [
        (0, None, 2, None),
        (2, Evidence(user_agent="browser"), 2, None),
        (3, Evidence(authentication=Act("password", 4)), 3, 4),
        (4, Evidence(confirmation=Act("link", 3)), 4, 3),
        (1, Evidence(authentication=Act("password", 4), confirmation=Act("link", 7)), 2, 7),
    ],
)
def test_the_guard_of_a_choice_comes_from_what_was_recorded(
    minimum: int, proof: Evidence | None, guard: int, evidence_at: int | None
) -> None:
    event = consent_event("e", 9, chosen("grant", 5, minimum_grade=minimum, evidence=proof, evidence_grade=E3))

    assert (guard, evidence_at, E3, 9) == (event.guard, event.evidence_at, event.grade, event.recorded_at)


def test_each_kind_of_choice_has_its_own_name_in_the_ledger() -> None:
    assert set(get_args(ConsentKind)) == set(ENTRY_KINDS)
    assert len(ENTRY_KINDS) == len(set(ENTRY_KINDS.values()))


# --- facts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["jurisdiction", "time_zone", "locale", "birth_date"])
def test_a_fact_is_kept_until_it_is_replaced_or_cleared(member: str) -> None:
    told = [None, "first", None, "second", "", None]
    seen = []
    state = EMPTY
    for position, value in enumerate(told):
        state = evolve(state, Entry(str(position), position, updated(**{member: value})))
        seen.append(getattr(state, member))

    assert seen == ["", "first", "first", "second", "", ""]


PHONE = Identifier("phone", "+491701234567")
VERIFIED = msgspec.structs.replace(EMAIL, verified_at=7)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([updated(added=(EMAIL,))], (EMAIL,)),
        ([updated(added=(EMAIL, PHONE))], (EMAIL, PHONE)),
        ([updated(added=(EMAIL,)), updated(added=(PHONE,))], (EMAIL, PHONE)),
        ([updated(added=(EMAIL,)), updated(added=(EMAIL,))], (EMAIL,)),
        ([updated(added=(EMAIL, PHONE)), updated(added=(VERIFIED,))], (VERIFIED, PHONE)),
        ([updated(added=(VERIFIED,)), updated(added=(EMAIL,))], (VERIFIED,)),
        ([updated(added=(EMAIL, PHONE)), updated(removed=(EMAIL,))], (PHONE,)),
        ([updated(added=(VERIFIED,)), updated(removed=(EMAIL,))], ()),
        ([updated(removed=(EMAIL,))], ()),
        ([updated(added=(EMAIL,)), updated(removed=(EMAIL,)), updated(added=(EMAIL,))], (EMAIL,)),
        ([updated(added=(EMAIL,)), updated(jurisdiction="DE")], (EMAIL,)),
        ([updated(added=(EMAIL,)), chosen("grant", 5)], (EMAIL,)),
    ],
)
def test_identifiers_are_added_verified_and_removed(told: list[Event], expected: tuple[Identifier, ...]) -> None:
    assert expected == fold(entries_of(*told)).identifiers


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), None),
        ((EMAIL,), None),
        ((EMAIL, Identifier("id", "cus_1")), "cus_1"),
        ((Identifier("id", "cus_2"), Identifier("id", "cus_1")), "cus_2"),
    ],
)
def test_callers_name_a_person_by_the_first_id_that_was_registered(
    known: tuple[Identifier, ...], expected: str | None
) -> None:
    assert expected == DataSubjectState(identifiers=known).caller_id()


def test_of_each_relation_the_newest_counts_with_the_entry_that_proves_it() -> None:
    purchase, contract = RelationType.PURCHASE, RelationType.CONTRACT
    state = fold(
        entries_of(
            updated(relations=(Relation(purchase, 5), Relation(contract, 9))),
            updated(relations=(Relation(purchase, 4),)),
            updated(relations=(Relation(purchase, 6), Relation(purchase, 5))),
            updated(relations=(Relation(purchase, 6),)),
        )
    )

    assert state.relations == {
        "contract": Fact("entry 0", "data_subject.updated", 9),
        "purchase": Fact("entry 2", "data_subject.updated", 6),
    }


def test_a_guardian_is_known_by_the_callers_id_and_the_latest_word_on_them_counts() -> None:
    mother, father = Guardian("mother", "passport", 1), Guardian("father", "passport", 1)
    left = Guardian("father", "passport", 1, 5)
    state = fold(entries_of(updated(guardian=mother), updated(guardian=father), updated(guardian=left)))

    assert state.guardians == {"mother": mother, "father": left}


@pytest.mark.parametrize(("since", "until", "live"), [(5, None, True), (6, None, False), (1, 5, False), (1, 6, True)])
def test_a_guardian_acts_from_since_until_before_until(since: int, until: int | None, live: bool) -> None:
    assert live is Guardian("mother", "passport", since, until).live(5)


@pytest.mark.parametrize(
    ("told", "entry"),
    [
        ([restriction(5)], "entry 0"),
        ([restriction(5), restriction(6)], "entry 1"),
        ([restriction(5), restriction(6, lifted=True)], None),
        ([restriction(5), restriction(6, lifted=True), restriction(7)], "entry 2"),
        ([restriction(5), chosen("grant", 6), updated(locale="de")], "entry 0"),
        ([restriction(6, lifted=True)], None),
    ],
)
def test_processing_stays_restricted_until_the_restriction_is_lifted(told: list[Event], entry: str | None) -> None:
    standing = fold(entries_of(*told)).restriction

    assert entry == (standing.entry if standing is not None else None)
    assert standing is None or standing.kind == "data_subject.restricted"


def test_the_newest_questions_are_remembered_and_no_more_than_the_budget_needs() -> None:
    told = [question(at, "nl", "ads") for at in range(ASKS_KEPT + 2)]

    asked = fold(entries_of(*told)).asked
    assert asked == tuple(Prompt(at, ("nl", "ads")) for at in range(2, ASKS_KEPT + 2))


@pytest.mark.parametrize(
    ("born", "years", "day"),
    [
        ("2011-07-02", 15, "2026-07-02"),
        ("2008-02-29", 18, "2026-03-01"),
        ("2008-02-29", 16, "2024-02-29"),
        ("1999-12-31", 13, "2012-12-31"),
        ("1950-01-01", 16, "1966-01-01"),
    ],
)
def test_a_person_is_so_old_once_the_birthday_has_begun_everywhere_on_earth(born: str, years: int, day: str) -> None:
    noon = round(datetime.fromisoformat(f"{day}T12:00:00Z").timestamp() * 1000)

    assert noon == comes_of_age(born, years)


# --- bytes --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(events | recorded)
def test_an_event_reads_back_as_it_was_written(event: Event) -> None:
    assert event == decode_event(encode_event(event))


@settings(deadline=None)
@given(events | recorded)
def test_the_payload_is_canonical(event: Event) -> None:
    encoded = encode_event(event)

    assert encoded == rfc8785.dumps(msgspec.json.decode(encoded))
    assert encoded == canonical(msgspec.json.decode(encoded))


FROZEN = [
    (
        chosen("withdraw", 5),
        """{"actor":"data_subject","claimed_at":5,"component":"web","event":"consent","evidence_grade":2,
        "kind":"withdraw","occurred_at":5,"purpose":"nl"}""",
    ),
    (
        chosen("grant", 5, channels=("email",), notice="nl@3", evidence=Evidence(authentication=Act("visit", 4))),
        """{"actor":"data_subject","channels":["email"],"claimed_at":5,"component":"web","event":"consent",
        "evidence":{"authentication":{"at":4,"method":"visit"}},"evidence_grade":2,"kind":"grant","notice":"nl@3",
        "occurred_at":5,"purpose":"nl"}""",
    ),
    (
        updated(added=(VERIFIED,), locale=""),
        """{"actor":"data_subject","added":[{"type":"email","value":"ana@example.org","verified_at":7}],
        "claimed_at":1,"component":"web","event":"facts","locale":"","occurred_at":1}""",
    ),
    (
        chosen("confirm", 5, names="0197", age_of_consent=16, guardian="mother", double_opt_in=True, minimum_grade=3),
        """{"actor":"data_subject","age_of_consent":16,"claimed_at":5,"component":"web","double_opt_in":true,"event":"consent",
        "evidence_grade":2,"guardian":"mother","kind":"confirm","minimum_grade":3,"names":"0197","occurred_at":5,
        "purpose":"nl"}""",
    ),
    (
        updated(
            birth_date="2011-07-02", guardian=Guardian("mother", "passport", 3, 9), blind_indexes=("aa",),
            relations=(Relation(RelationType.PURCHASE, 4),),
        ),
        """{"actor":"data_subject","birth_date":"2011-07-02","blind_indexes":["aa"],"claimed_at":1,"component":"web",
        "event":"facts","guardian":{"id":"mother","method":"passport","since":3,"until":9},"occurred_at":1,
        "relations":[{"at":4,"type":"purchase"}]}""",
    ),
    (
        restriction(5, lifted=True),
        """{"actor":"data_subject","claimed_at":5,"component":"web","event":"restriction","lifted":true,
        "occurred_at":5}""",
    ),
    (
        question(5, "ads", "nl"),
        """{"actor":"system","claimed_at":5,"component":"web","event":"ask","occurred_at":5,
        "purposes":["ads","nl"]}""",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "expected"), FROZEN)
def test_the_bytes_of_a_payload_never_change(event: Event, expected: str) -> None:
    assert re.sub(r"\n *", "", expected).encode() == encode_event(event)


@settings(deadline=None)
@given(histories)
def test_a_state_reads_back_as_it_was_written(entries: list[Entry]) -> None:
    state = fold(entries)

    assert state == decode_state(encode_state(state))


@settings(deadline=None)
@given(histories)
def test_what_a_state_has_folded_is_no_part_of_it(entries: list[Entry]) -> None:
    """It is not stored, not compared and not carried into the state after another entry."""
    untouched, asked = fold(entries), fold(entries)
    for purpose in asked.consents:
        assert asked.choices(purpose) is asked.choices(purpose)

    assert encode_state(untouched) == encode_state(asked)
    assert untouched == asked
    for purpose, events in asked.consents.items():
        more = evolve(asked, Entry("more", 9, chosen("withdraw", 9, purpose=purpose)))
        assert choices_of(more.consents[purpose]) == more.choices(purpose)
        assert choices_of(events) == asked.choices(purpose)


@pytest.mark.remembers
def test_a_state_folds_nothing_for_a_purpose_without_choices() -> None:
    state = DataSubjectState()

    assert all(state.choices(f"purpose-{number}") is NO_CHOICES for number in range(9))
    assert vars(state) == {"_choices": {}}


def test_a_state_as_the_versions_before_wrote_it_is_read() -> None:
    grant = ["0197", "grant", 5, 6, "data_subject", ["email"], "nl@3", 2, 3, 4, None, 9]
    written = [1, [{"type": "email", "value": "ana@example.org"}], "DE", "Europe/Berlin", "de", {"nl": [grant]}, ["aa"]]

    event = ConsentEvent(
        entry="0197", kind="grant", occurred_at=5, recorded_at=6, actor="data_subject", channels=("email",),
        notice="nl@3", grade=2, guard=3, evidence_at=4, valid_until=9,
    )  # fmt: skip
    assert decode_state(msgspec.msgpack.encode(written)) == DataSubjectState(
        identifiers=(EMAIL,), jurisdiction="DE", time_zone="Europe/Berlin", locale="de", consents={"nl": (event,)},
        blind_indexes=("aa",),
    )  # fmt: skip


WRITTEN = encode_event(chosen("grant", 5, evidence=Evidence(confirmation=Act("link", 3)), source=Source("crm", "7")))


@pytest.mark.parametrize("member", ["", "evidence", "confirmation", "source"])
def test_an_event_with_a_member_of_a_later_version_is_not_read_as_if_it_were_not_there(member: str) -> None:
    start = rb"^{" if not member else rb'"' + member.encode() + rb'":{'
    later = re.sub(start, lambda found: found.group() + b'"later":1,', WRITTEN)
    assert later != WRITTEN

    with pytest.raises(msgspec.DecodeError):
        decode_event(later)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"event":"erased"}', WRITTEN[:-1], WRITTEN.replace(b"5", b"5.5")]
)
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        encode_state(EMPTY)[:-1],
        encode_state(msgspec.structs.replace(EMPTY, version=STATE_VERSION + 1)),
        encode_state(msgspec.structs.replace(EMPTY, version=0)),
    ],
)
def test_bytes_that_are_no_state_of_this_version_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_state(data)
