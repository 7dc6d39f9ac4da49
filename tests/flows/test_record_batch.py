"""Which writes of a batch are one person's: those that name an identifier in common, also by way of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.admission import Command
from volenti.core.data_subject import Identifier
from volenti.flows.record_batch import Write, lanes

COMMAND = Command(actor="data_subject", component="test")


def write(*names: str) -> Write:
    """A write that names somebody: `ana@…` by an address, anything else by the caller's id."""
    who = tuple(Identifier("email" if "@" in name else "id", name) for name in names)
    return Write(COMMAND, who, None)


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([], []),
        ([write("a"), write("b")], [[0], [1]]),
        ([write("a"), write("b"), write("a")], [[0, 2], [1]]),
        ([write("a", "ana@example.org"), write("b"), write("Ana@EXAMPLE.org")], [[0, 2], [1]]),
        ([write("a"), write("x@example.org"), write("a", "x@example.org")], [[0, 1, 2]]),
        ([write("a"), write("b"), write("c"), write("a", "z@example.org"), write("c", "z@example.org")], [[0, 2, 3, 4], [1]]),
        ([write("@"), write("@")], [[0, 1]]),
    ],
    ids=["nothing", "two people", "one id twice", "two spellings of an address", "joined by a third", "joined later", "malformed"],
)  # fmt: skip
def test_writes_that_share_an_identifier_stand_in_one_lane(writes: list[Write], expected: list[list[int]]) -> None:
    assert lanes(writes) == expected


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=12))
def test_each_write_stands_in_one_lane_in_order_and_no_lanes_share_a_name(named: list[list[str]]) -> None:
    found = lanes([write(*names) for names in named])
    assert sorted(position for lane in found for position in lane) == list(range(len(named)))
    assert all(lane == sorted(lane) for lane in found)
    told = [{name for position in lane for name in named[position]} for lane in found]
    assert sum(len(names) for names in told) == len(set().union(*told))
