"""The registry of reasons only grows: a number in an old log and a code in a caller's program mean the same for ever.

`vectors/reasons.json` holds the rows as they were published, and the codes that are never answered, whose numbers no
other code may have. A new code is added there in the change that adds it; no row is ever edited.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from volenti.core.reason import OF_LATER_VERSIONS, REASONS, STEPS, Effect, Reason, Remedy, Step, reason, reason_page

FROZEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "reasons.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("row", FROZEN["registered"], ids=lambda row: row["code"])
def test_a_published_code_keeps_its_number_step_effect_meaning_and_who_can_lift_it(row: dict[str, Any]) -> None:
    registered = reason(row["code"])

    assert row == {name: getattr(registered, name) for name in row}


def test_every_code_is_frozen() -> None:
    assert [row["code"] for row in FROZEN["registered"]] == list(REASONS)


def test_a_number_stands_for_one_code_also_of_those_that_are_never_answered() -> None:
    rows = FROZEN["registered"] + FROZEN["never_answered"]

    assert len(rows) == len({row["number"] for row in rows}) == len({row["code"] for row in rows})


def test_the_registry_is_listed_by_number_and_each_number_fits_its_log_column() -> None:
    numbers = [one.number for one in REASONS.values()]

    assert numbers == sorted(numbers)
    assert all(0 < number < 100 for number in numbers)


def test_numbers_grow_with_the_steps_so_that_both_orders_agree() -> None:
    denying = [one for one in REASONS.values() if one.effect == "deny" and one.step != "reserve"]

    assert denying == sorted(denying, key=lambda one: (STEPS.index(one.step), one.number))


def test_every_step_is_evaluated_in_one_place() -> None:
    assert list(STEPS) == list(get_args(Step))
    assert {one.step for one in REASONS.values()} <= set(STEPS)
    assert {one.effect for one in REASONS.values()} <= set(get_args(Effect))


@pytest.mark.parametrize("one", REASONS.values(), ids=lambda one: one.code)
def test_every_code_has_a_sentence_for_people(one: Any) -> None:
    assert one.text.endswith(".")
    assert one.code == one.code.lower()


@pytest.mark.parametrize("one", REASONS.values(), ids=lambda one: one.code)
def test_what_time_or_the_person_can_lift_has_a_remedy_and_a_permit_has_none(one: Reason) -> None:
    assert one.remedy is not None or not (one.time_lifts or one.person_lifts)
    assert one.remedy in get_args(Remedy) or one.remedy is None
    assert one.effect != "permit" or one.remedy is None
    assert not one.time_lifts or one.remedy in ("wait_until", "open_preferences")


def test_the_page_of_the_documentation_is_made_from_the_registry() -> None:
    page = Path(__file__).parents[2] / "docs" / "reasons.md"

    assert page.read_text(encoding="utf-8") == reason_page(), "run: make docs"


@pytest.mark.parametrize("one", REASONS.values(), ids=lambda one: one.code)
def test_the_page_tells_all_of_a_code_under_its_step(one: Reason) -> None:
    (_, section) = reason_page().split(f"\n## {one.step}\n")
    (line,) = [line for line in section.split("\n## ")[0].splitlines() if line.startswith(f"| {one.number} ")]

    assert line.endswith(f" | {one.text} |")
    assert (f"*`{one.code}`*" in line) is (one.code in OF_LATER_VERSIONS)
    assert f"| {one.effect} |" in line
    assert ("the person" in line.split("|")[4]) is one.person_lifts
    assert ("time" in line.split("|")[4]) is one.time_lifts
    assert ("operator" in line.split("|")[4]) is (one.step == "system")
    assert one.remedy is None or f"| `{one.remedy}` |" in line


def test_a_code_that_is_not_registered_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        reason("consent.maybe")
