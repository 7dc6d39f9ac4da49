"""The service's one clock, and the ids that carry its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

Clock: TypeAlias = Callable[[], int]
"""Milliseconds since the epoch, UTC."""
Entropy: TypeAlias = Callable[[int], bytes]
"""As many random bytes as asked for."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


def boot_seconds() -> float:
    """Seconds on a clock that counts suspend and never jumps: what leases and freshness are measured with."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class StandingClock:
    """A clock that stands until it is moved forward: `volenti serve --test-clock`."""

    def __init__(self, now: int) -> None:
        self._now = now

    def __call__(self) -> int:
        return self._now

    def move(self, now: int) -> None:
        self._now = max(self._now, now)


def instant(milliseconds: int) -> datetime:
    """The aware UTC datetime of an instant."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


def milliseconds(at: datetime) -> int:
    """The instant of an aware datetime, cut to whole milliseconds."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(milliseconds: int) -> str:
    """RFC 3339, UTC, with milliseconds and Z: how every time is written on the wire."""
    return instant(milliseconds).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def uuid7(now: int, random: bytes) -> UUID:
    """A UUIDv7 (RFC 9562) of an instant and ten random bytes."""
    value = (now & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(random[:10])
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
