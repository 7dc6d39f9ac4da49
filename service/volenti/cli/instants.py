"""Instants that options take."""

from __future__ import annotations

from datetime import UTC, datetime

from volenti.errors import Invalid
from volenti.flows.clock import milliseconds


def instant_of(text: str, option: str) -> int:
    """The instant (milliseconds) that an option was given in RFC 3339. Raises Invalid for anything else."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{option} takes an RFC 3339 instant such as 2027-01-01T00:00:00Z") from None
    if at.tzinfo is None:
        raise Invalid(f"{option} takes an instant with a time zone, such as 2027-01-01T00:00:00Z")
    try:
        return milliseconds(at.astimezone(UTC))
    except OverflowError:
        raise Invalid(f"{option} takes an instant of the years 1 to 9999") from None
