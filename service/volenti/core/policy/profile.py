"""The jurisdiction profiles: what the law of a place asks, as dated rows that each name a source.

A profile is data that is shipped, versioned and never edited: a new version appends. Nothing here is advice on law;
each row says how well it is known (`confidence`), and a policy overrides what its author knows better.
"""

from datetime import UTC, date, datetime
from enum import StrEnum

import msgspec

from volenti.core.policy.cell import CellValue


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


def rows_at(profiles: Profiles, at_ms: int) -> dict[tuple[str, str], CellValue]:
    """Give the values in force at an instant, by place and key. A day begins and ends in UTC."""
    return {
        (row.jurisdiction, row.key): row.value
        for row in profiles.rows
        if (row.valid_from is None or day_ms(row.valid_from) <= at_ms)
        and (row.valid_until is None or at_ms < day_ms(row.valid_until))
    }


def next_change_ms(profiles: Profiles, at_ms: int) -> int | None:
    """Give the next instant at which a row begins or ends, `None` if none ever does."""
    days = {day for row in profiles.rows for day in (row.valid_from, row.valid_until) if day is not None}
    return min((ms for ms in map(day_ms, days) if ms > at_ms), default=None)


def day_ms(day: date) -> int:
    """Give the instant at which a day begins, in milliseconds UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
