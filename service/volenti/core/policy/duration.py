"""Calendar durations as ISO 8601 writes them (`P24M`), and the instant at which one that started earlier ends."""

import re
from calendar import monthrange
from datetime import date
from functools import lru_cache

import msgspec

DURATION_PATTERN = (
    r"^P(?=[0-9T])([0-9]{1,4}Y)?([0-9]{1,4}M)?([0-9]{1,4}W)?([0-9]{1,5}D)?"
    r"(T(?=[0-9])([0-9]{1,5}H)?([0-9]{1,6}M)?([0-9]{1,8}S)?)?(?!\n)$"
)
LATEST_MS = 253_402_300_799_999
"""The last instant that we name, 9999-12-31T23:59:59.999Z: what would end later ends here."""

_DAY_MS = 86_400_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_PARTS = re.compile(
    r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", flags=re.ASCII
)


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """A span of calendar months, then days, then seconds, in the order in which they are added."""

    months: int = 0
    days: int = 0
    seconds: int = 0


def parse_duration(text: str) -> Duration | None:
    """Read an ISO 8601 duration of whole units; `None` if it is none, or if it is empty, zero or over 100 years."""
    parts = _PARTS.fullmatch(text)
    if parts is None or re.search(DURATION_PATTERN, text) is None:
        return None
    years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    duration = Duration(
        months=12 * years + months, days=7 * weeks + days, seconds=3600 * hours + 60 * minutes + seconds
    )
    about_days = duration.months * 30.4375 + duration.days + duration.seconds / 86_400
    return duration if 0 < about_days <= 36_525 else None


def iso(duration: Duration) -> str:
    """Give a duration as ISO 8601 writes it, in months, days and seconds."""
    date_part = "".join(f"{count}{unit}" for count, unit in ((duration.months, "M"), (duration.days, "D")) if count)
    return f"P{date_part}" + (f"T{duration.seconds}S" if duration.seconds else "")


def expires_at(occurred_at_ms: int, valid_for: Duration) -> int:
    """Give the instant, in milliseconds UTC, at which what began at `occurred_at_ms` is no longer valid.

    The boundary itself is already expired. Months are calendar months in UTC and clamp to the last day of a shorter
    month: one month after 31 January is 28 or 29 February. `occurred_at_ms` lies between the years 1 and 9999; a
    result after 9999 is `LATEST_MS`.
    """
    day = occurred_at_ms // _DAY_MS + _EPOCH_DAY
    days = _months_later(day, valid_for.months) - day + valid_for.days
    end = occurred_at_ms + days * _DAY_MS + valid_for.seconds * 1000
    return min(LATEST_MS, end)


@lru_cache(maxsize=8192)  # the same days and spans come again and again
def _months_later(ordinal: int, months: int) -> int:
    start = date.fromordinal(ordinal)
    years, month0 = divmod(start.month - 1 + months, 12)
    year, month = start.year + years, month0 + 1
    if year > date.max.year:
        return ordinal + 31 * months  # not a real date: after LATEST_MS in any case, and clamped to it
    return date(year, month, min(start.day, monthrange(year, month)[1])).toordinal()
