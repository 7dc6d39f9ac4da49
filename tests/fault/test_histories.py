"""The checker finds what a broken service would show: each history here is bad in one way, and it says which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fault.histories import (
    UNKNOWN,
    Read,
    Write,
    changed,
    faults,
    gaps,
    lost,
    ordered_pairs,
    stale,
    unclaimed,
    unordered,
)

LEDGER: list[str | None] = ["genesis", "a0", "a1", "b0", "c0"]
A = Write("key a", "ada", "grant", 1.0, 2.0, 1, ("a0", "a1"))
B = Write("key b", "ada", "withdraw", 3.0, 4.0, 3, ("b0",))
C = Write("key c", "bob", "grant", 3.5, 4.5, 4, ("c0",))
GOOD = [A, B, C]


def test_a_good_history_has_no_faults() -> None:
    reads = [
        Read("ada", UNKNOWN, 0.0, 0.5),
        Read("ada", UNKNOWN, 1.5, 1.6),
        Read("ada", "grant", 1.5, 1.6),
        Read("ada", "grant", 2.5, 2.6),
        Read("ada", "grant", 3.5, 3.6),
        Read("ada", "withdraw", 3.5, 3.6),
        Read("ada", "withdraw", 5.0, 5.1),
        Read("eve", UNKNOWN, 5.0, 5.1),
    ]

    assert faults(LEDGER, [*GOOD, replace(A, started=6.0, ended=7.0)], reads, before=1) == []
    assert ordered_pairs(GOOD) == 2


def test_an_entry_that_was_acknowledged_and_is_gone_is_found() -> None:
    assert len(lost(LEDGER[:-1], GOOD)) == 1
    assert len(lost([*LEDGER[:-1], "another"], GOOD)) == 1


def test_an_index_without_an_entry_and_an_entry_at_two_indexes_are_found() -> None:
    assert gaps(["a", None, "b"]) == ["no entry has the index 1"]
    assert gaps(["a", "b", "a"]) == ["entry a stands at 0 and at 2"]


def test_a_key_with_two_effects_is_found_even_if_the_first_was_never_acknowledged() -> None:
    assert unclaimed([*LEDGER, "b0 again"], GOOD, before=1) == ["entry b0 again at 5 answers no key"]


def test_one_index_given_to_two_keys_is_found() -> None:
    assert unclaimed(LEDGER, [*GOOD, replace(C, key="key d")], before=1) == ["index 4 was given to key c and key d"]


@pytest.mark.parametrize("other", [replace(A, first_index=7), replace(A, entries=("a0", "x")), replace(A, answer=b" ")])
def test_a_replay_with_another_index_entry_or_byte_is_found(other: Write) -> None:
    assert len(changed([*GOOD, other])) == 1


def test_a_replay_is_compared_with_the_first_answer_whatever_its_time() -> None:
    assert unordered([*GOOD, replace(A, started=8.0, ended=9.0)]) == []


def test_indexes_against_real_time_are_found() -> None:
    assert len(unordered([A, replace(B, first_index=4), replace(C, first_index=3)])) == 0, (
        "they overlap: any order holds"
    )
    assert len(unordered([replace(A, first_index=4), replace(B, first_index=1)])) == 1
    assert len(unordered([replace(A, first_index=3), replace(B, first_index=4)])) == 1, "they share an index"


def test_a_value_that_was_overwritten_for_certain_is_found() -> None:
    assert len(stale(GOOD, [Read("ada", "grant", 4.1, 4.2)])) == 1, "the withdrawal ended before the question"


def test_a_value_that_nobody_had_written_yet_is_found() -> None:
    assert len(stale(GOOD, [Read("ada", "withdraw", 2.1, 2.9)])) == 1
    assert len(stale(GOOD, [Read("ada", UNKNOWN, 2.1, 2.2)])) == 1
    assert len(stale(GOOD, [Read("eve", "grant", 5.0, 5.1)])) == 1


def test_a_grant_that_did_not_come_into_force_must_not_be_read() -> None:
    assert len(stale([replace(A, applied=False)], [Read("ada", "grant", 3.0, 3.1)])) == 1


def test_a_read_that_goes_back_behind_an_earlier_one_is_found_although_the_write_was_still_under_way() -> None:
    seen, unseen = Read("ada", "withdraw", 3.1, 3.2), Read("ada", "grant", 3.3, 3.4)
    assert stale(GOOD, [unseen, replace(seen, started=3.5, ended=3.6)]) == []
    assert stale(GOOD, [seen, replace(unseen, started=3.15)]) == [], "they overlap: either may come first"
    assert len(stale(GOOD, [seen, unseen])) == 1


def test_a_value_that_came_back_without_a_write_is_found() -> None:
    again = replace(A, key="key e", started=5.0, ended=6.0, first_index=5, entries=("e0",))
    reads = [Read("ada", value, at, at + 0.1) for value, at in (("grant", 2.5), ("withdraw", 4.5), ("grant", 6.5))]
    assert stale([*GOOD, again], reads) == []
    assert len(stale(GOOD, reads)) == 1


def test_a_write_that_another_one_stands_before_in_the_ledger_cannot_be_read_before_that_one_began() -> None:
    first, second = replace(A, started=1.0, ended=9.0), replace(B, started=0.5, ended=9.0)
    assert stale([first, second], [Read("ada", "withdraw", 1.1, 1.2)]) == []
    assert len(stale([first, second], [Read("ada", "withdraw", 0.6, 0.7)])) == 1


def test_a_read_of_one_person_says_nothing_about_another() -> None:
    reads = [Read("bob", "grant", 4.6, 4.7), Read("ada", "withdraw", 4.8, 4.9), Read("eve", UNKNOWN, 4.8, 4.9)]
    assert stale(GOOD, reads) == []
    assert len(stale(GOOD, [*reads, Read("bob", UNKNOWN, 4.8, 4.9)])) == 1


@pytest.mark.parametrize(
    ("ledger", "writes", "reads"),
    [
        (LEDGER[:-1], GOOD, []),
        (LEDGER, [*GOOD, replace(A, answer=b" ")], []),
        (LEDGER, [A, replace(B, started=5.0, ended=6.0), C], []),
        (LEDGER, GOOD, [Read("ada", "grant", 4.3, 4.4)]),
    ],
    ids=["lost", "changed", "unordered", "stale"],
)
def test_all_faults_are_looked_for_at_once(ledger: list[str | None], writes: list[Write], reads: list[Read]) -> None:
    assert len(faults(ledger, writes, reads, before=1)) == 1
