"""A duration ends on the calendar's day, clamped to the end of a shorter month, whatever the year."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.policy.duration import LATEST_MS, Duration, expires_at, iso, parse_duration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P24M", Duration(months=24)),
        ("P30D", Duration(days=30)),
        ("P1Y", Duration(months=12)),
        ("P2W", Duration(days=14)),
        ("P1Y2M3D", Duration(months=14, days=3)),
        ("PT36H", Duration(seconds=129_600)),
        ("P1DT1H1M1S", Duration(days=1, seconds=3661)),
        ("P100Y", Duration(months=1200)),
        ("P0Y1D", Duration(days=1)),
        ("P", None),
        ("PT", None),
        ("P1DT", None),
        ("P0D", None),
        ("P0Y0M", None),
        ("P101Y", None),
        ("P99999D", None),
        ("P1.5M", None),
        ("P-1M", None),
        ("-P1M", None),
        ("p1m", None),
        ("P1M ", None),
        ("P1M\n", None),
        ("P1D1M", None),
        ("P1H", None),
        ("P٣M", None),
        ("24 months", None),
        ("", None),
    ],
)
def test_a_duration_is_read_whole_or_not_at_all(text: str, expected: Duration | None) -> None:
    assert expected == parse_duration(text)


@pytest.mark.parametrize(
    ("start", "duration", "end"),
    [
        ("2026-01-31T10:00:00.123Z", "P1M", "2026-02-28T10:00:00.123Z"),
        ("2028-01-31T10:00:00Z", "P1M", "2028-02-29T10:00:00Z"),
        ("2026-01-31T00:00:00Z", "P3M", "2026-04-30T00:00:00Z"),
        ("2028-02-29T00:00:00Z", "P1Y", "2029-02-28T00:00:00Z"),
        ("2028-02-29T00:00:00Z", "P4Y", "2032-02-29T00:00:00Z"),
        ("2026-12-31T23:59:59.999Z", "P2M", "2027-02-28T23:59:59.999Z"),
        ("2026-11-30T00:00:00Z", "P1M", "2026-12-30T00:00:00Z"),
        ("2026-01-31T00:00:00Z", "P1M1D", "2026-03-01T00:00:00Z"),
        ("2026-05-02T09:11:00Z", "P24M", "2028-05-02T09:11:00Z"),
        ("2026-05-02T09:11:00Z", "PT36H", "2026-05-03T21:11:00Z"),
        ("1969-12-31T23:59:59Z", "P1M", "1970-01-31T23:59:59Z"),
        ("9999-06-30T00:00:00Z", "P5M", "9999-11-30T00:00:00Z"),
    ],
)
def test_months_clamp_to_the_last_day_of_a_shorter_month(start: str, duration: str, end: str) -> None:
    valid_for = parse_duration(duration)

    assert valid_for is not None
    assert milliseconds(end) == expires_at(milliseconds(start), valid_for)


@pytest.mark.parametrize("duration", ["P1D", "P1M", "P1Y", "P100Y", "PT24H"])
def test_what_ends_after_the_year_9999_ends_at_its_last_instant(duration: str) -> None:
    valid_for = parse_duration(duration)

    assert valid_for is not None
    assert expires_at(milliseconds("9999-12-31T12:00:00Z"), valid_for) == LATEST_MS


def slowly(start: datetime, duration: Duration) -> datetime:
    """The oracle: month by month on the calendar, then the day stepped back until it exists."""
    year, month = start.year, start.month
    for _ in range(duration.months):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    for day in range(start.day, 0, -1):
        try:
            moved = start.replace(year=year, month=month, day=day)
        except ValueError:
            continue
        return moved + timedelta(days=duration.days, seconds=duration.seconds)
    raise AssertionError("every month has a first day")


@settings(deadline=None)
@given(
    st.integers(milliseconds("0001-01-01T00:00:00Z"), milliseconds("9500-01-01T00:00:00Z")),
    st.builds(
        Duration,
        months=st.integers(0, 1200),
        days=st.integers(0, 36_525),
        seconds=st.integers(0, 10**8),
    ),
)
def test_it_agrees_with_the_calendar_of_datetime(start_ms: int, duration: Duration) -> None:
    end = slowly(EPOCH + timedelta(milliseconds=start_ms), duration)

    assert (end - EPOCH) // timedelta(milliseconds=1) == expires_at(start_ms, duration)


@settings(deadline=None)
@given(st.integers(0, LATEST_MS), st.integers(1, 1200), st.integers(0, 1200))
def test_a_longer_validity_never_ends_earlier(start_ms: int, months: int, more: int) -> None:
    assert expires_at(start_ms, Duration(months=months)) <= expires_at(start_ms, Duration(months=months + more))


@pytest.mark.parametrize("text", ["P1M", "P24M", "P3D", "P1M3D", "PT90S", "P2DT1S", "P1M2DT3S"])
def test_a_duration_in_its_shortest_form_is_written_as_it_was_read(text: str) -> None:
    duration = parse_duration(text)
    assert duration is not None
    assert iso(duration) == text
