"""The registry of reasons only grows: a number in an old log and a code in a caller's program mean the same for ever.

`vectors/reasons.json` holds the rows as they were published, and the numbers that are kept for codes to come. A new
code is added to `answered` there in the change that adds it; no row of it is ever edited.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from volenti.core.reason import REASONS, STEPS, Effect, Step, reason

FROZEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "reasons.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("row", FROZEN["answered"], ids=lambda row: row["code"])
def test_a_published_code_keeps_its_number_step_effect_and_who_can_lift_it(row: dict[str, Any]) -> None:
    registered = reason(row["code"])

    assert row == {name: getattr(registered, name) for name in row}


def test_every_code_that_is_answered_is_frozen() -> None:
    assert [row["code"] for row in FROZEN["answered"]] == list(REASONS)


def test_a_number_stands_for_one_code_also_of_those_to_come() -> None:
    rows = FROZEN["answered"] + FROZEN["reserved"]

    assert len(rows) == len({row["number"] for row in rows}) == len({row["code"] for row in rows})


def test_the_registry_is_listed_by_number_and_each_number_fits_its_log_column() -> None:
    numbers = [one.number for one in REASONS.values()]

    assert numbers == sorted(numbers)
    assert all(0 < number < 100 for number in numbers)


def test_numbers_grow_with_the_steps_so_that_both_orders_agree() -> None:
    denying = [one for one in REASONS.values() if one.effect == "deny"]

    assert denying == sorted(denying, key=lambda one: (STEPS.index(one.step), one.number))


def test_every_step_is_evaluated_in_one_place() -> None:
    assert list(STEPS) == list(get_args(Step))
    assert {one.step for one in REASONS.values()} <= set(STEPS)
    assert {one.effect for one in REASONS.values()} <= set(get_args(Effect))


@pytest.mark.parametrize("one", REASONS.values(), ids=lambda one: one.code)
def test_every_code_has_a_sentence_for_people(one: Any) -> None:
    assert one.text.endswith(".")
    assert one.code == one.code.lower()


def test_a_code_that_is_not_registered_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        reason("consent.maybe")
