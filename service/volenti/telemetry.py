"""Logs: one JSON object a line, from an allow-list of members, so that no personal data gets in by accident."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

ALLOWED = frozenset(
    (
        "event", "level", "timestamp", "method", "route", "status", "ms", "component", "error", "cause", "detail", "name", "version", "entries", "seconds",
        "workspace", "origin", "size", "port", "host", "source", "applied", "skipped", "signal", "count",
    )
)  # fmt: skip
"""Members that a record may have. None of them holds what a caller or a person typed."""
LONGEST = 500


def _only_allowed(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        key: value[:LONGEST] if isinstance(value, str) else value
        for key, value in record.items()
        if key in ALLOWED and value is not None
    }


def configure(level: str, *, to: TextIO | None = None) -> None:
    """Send every record to standard error (or `to`) as JSON. Other libraries' records pass at WARNING and above, without their values."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.WriteLogger(to or sys.stderr),  # whatever standard error is by then
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)


class _Bridge(logging.Handler):
    """Records of other libraries: where they come from, never what they say, since that may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().warning(
            "library",
            name=record.name,
            error=record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None,
        )
