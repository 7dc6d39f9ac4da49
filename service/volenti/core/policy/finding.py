"""What is wrong with a policy document, and where: a value that the linter gives and its author reads."""

from typing import Literal

import msgspec

Severity = Literal["error", "warning"]

Remark = tuple[str, Severity, str]
"""A JSON Pointer, how bad it is, and the sentence; a line is found for it at the end."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence about one place. `line` counts from 1, or is 0 where no text is at hand; `pointer` is RFC 6901."""

    line: int
    pointer: str
    severity: Severity
    message: str


def child(pointer: str, member: str | int) -> str:
    """Give the JSON Pointer of a member of what `pointer` points to."""
    return f"{pointer}/{str(member).replace('~', '~0').replace('/', '~1')}"


def quoted(text: str) -> str:
    """Give a word of the author's in quotation marks, fit for one line of a message: short, and printable."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:64])
    return f"“{shown}…”" if len(text) > 64 else f"“{shown}”"
