"""The jurisdiction profiles: what the law of a place asks, as dated rows that each name a source.

A profile is data that is shipped, versioned and never edited: a new version appends. Nothing here is advice on law;
each row says how well it is known (`confidence`), and a policy overrides what its author knows better.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from volenti.core.policy.cell import CellValue, read_value
from volenti.core.policy.document import ProfileVersion
from volenti.core.policy.finding import quoted
from volenti.core.policy.jurisdiction import DEFAULT, is_jurisdiction
from volenti.core.policy.yaml import load
from volenti.errors import Invalid


class Confidence(StrEnum):
    """How well a row is known: the law's own text, somebody's account of it, memory, or a cautious choice of ours."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    UNVERIFIED = "unverified"
    POLICY = "policy"


class ProfileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One value in one place, from `valid_from` until just before `valid_until`; `None` is without beginning or end."""

    jurisdiction: str
    key: str
    value: CellValue
    source: str
    confidence: Confidence
    valid_from: date | None = None
    valid_until: date | None = None
    note: str | None = None


class Profiles(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the profiles of all places."""

    version: str
    rows: tuple[ProfileRow, ...]


def parse_profiles(text: str) -> Profiles:
    """Read a version of the profiles as it is shipped. Raises `Invalid`, with the line, for the first thing wrong."""
    loaded = load(text)
    if loaded.findings:
        raise Invalid(f"jurisdiction profiles, line {loaded.findings[0].line}: {loaded.findings[0].message}")
    try:
        written = msgspec.convert(loaded.value, _Document)
    except msgspec.ValidationError as error:
        raise Invalid(f"jurisdiction profiles: {error}") from error
    rows: list[ProfileRow] = []
    earlier: dict[tuple[str, str], list[ProfileRow]] = {}
    for index, one in enumerate(written.rows):
        try:
            for row in _spelled_out(one):
                of_cell = earlier.setdefault((row.jurisdiction, row.key), [])
                _check(row, of_cell)
                of_cell.append(row)
                rows.append(row)
        except Invalid as error:
            raise Invalid(f"jurisdiction profiles, line {loaded.lines[f'/rows/{index}']}: {error}") from error
    return Profiles(version=written.version, rows=tuple(rows))


def rows_at(profiles: Profiles, at_ms: int) -> dict[tuple[str, str], CellValue]:
    """Give the values in force at an instant, by place and key. A day begins and ends in UTC."""
    return {
        (row.jurisdiction, row.key): row.value
        for row in profiles.rows
        if (row.valid_from is None or day_ms(row.valid_from) <= at_ms)
        and (row.valid_until is None or at_ms < day_ms(row.valid_until))
    }


def nearest(
    cells: Mapping[tuple[str, str], CellValue], places: Sequence[str], names: Sequence[str], absent: Any
) -> Any:
    """Give the value of the first place that has one, there of the first name that has one."""
    found = (cells[place, name] for place in places for name in names if (place, name) in cells)
    return next(found, absent)


def change_instants(profiles: Profiles) -> tuple[int, ...]:
    """Give an instant before any row begins or ends, and every instant at which one does."""
    changes = sorted(_changes_ms(profiles))
    return (changes[0] - 1, *changes) if changes else (0,)


def next_change_ms(profiles: Profiles, at_ms: int) -> int | None:
    """Give the next instant at which a row begins or ends, `None` if none ever does."""
    return min((change for change in _changes_ms(profiles) if change > at_ms), default=None)


def day_ms(day: date) -> int:
    """Give the instant at which a day begins, in milliseconds UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _changes_ms(profiles: Profiles) -> set[int]:
    return {day_ms(day) for row in profiles.rows for day in (row.valid_from, row.valid_until) if day is not None}


Words = Annotated[str, Meta(min_length=1, max_length=400)]


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row as it is written: of several places and keys at once, if they share the rest."""

    jurisdiction: str | list[str]
    key: str | list[str]
    value: Any
    source: Words
    confidence: Confidence
    valid_from: date | None = None
    valid_until: date | None = None
    note: Words | None = None


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: ProfileVersion
    rows: list[_Written]


def _spelled_out(written: _Written) -> Iterator[ProfileRow]:
    for place in [written.jurisdiction] if isinstance(written.jurisdiction, str) else written.jurisdiction:
        for key in [written.key] if isinstance(written.key, str) else written.key:
            yield ProfileRow(
                jurisdiction=place,
                key=key,
                value=read_value(key, written.value),
                source=written.source,
                confidence=written.confidence,
                valid_from=written.valid_from,
                valid_until=written.valid_until,
                note=written.note,
            )


def _check(row: ProfileRow, earlier: Sequence[ProfileRow]) -> None:
    """Raise `Invalid` for what is wrong with a row, given those of the same place and key before it."""
    if row.jurisdiction != DEFAULT and not is_jurisdiction(row.jurisdiction):
        raise Invalid(f"{quoted(row.jurisdiction)} is no ISO 3166 code")
    if row.valid_from is not None and row.valid_until is not None and row.valid_until <= row.valid_from:
        raise Invalid("valid_until must be later than valid_from")
    if any(_overlap(row, other) for other in earlier):
        raise Invalid(f"{row.key} of {row.jurisdiction} has two values at the same time")


def _overlap(one: ProfileRow, other: ProfileRow) -> bool:
    return (one.valid_from or date.min) < (other.valid_until or date.max) and (other.valid_from or date.min) < (
        one.valid_until or date.max
    )
