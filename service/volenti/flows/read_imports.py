"""Files of choices as rows: our NDJSON, and Transcend's preference CSV. Reads text, touches nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from volenti.core.data_subject import Identifier
from volenti.core.policy.document import Channel, Key
from volenti.core.policy.jurisdiction import is_jurisdiction
from volenti.errors import Invalid
from volenti.flows.clock import milliseconds

LONGEST_LINE = 64 * 1024


class ImportedChoice(msgspec.Struct, frozen=True):
    """One choice of a row. `off` becomes a withdrawal where something was given before, else a refusal."""

    kind: Literal["grant", "off", "deny", "withdraw", "object"]
    purpose: str
    channels: tuple[str, ...] = ()
    notice: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One row: who, when, what; and what of it cannot be carried, in words that name no person."""

    number: int
    name: str
    """The row's id in its source: with it a second run finds what the first one wrote."""
    who: tuple[Identifier, ...]
    at: int | None
    choices: tuple[ImportedChoice, ...]
    lost: tuple[str, ...] = ()
    jurisdiction: str | None = None


class Unreadable(msgspec.Struct, frozen=True):
    """A line that cannot be read: then nothing of the file is applied."""

    number: int
    why: str


class _NativeSubject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str | None = None
    identifiers: tuple[Identifier, ...] = ()
    jurisdiction: str | None = None


class _NativeEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As a write has it: a misspelt channel would be a refusal that binds nothing."""

    kind: Literal["grant", "deny", "withdraw", "object"]
    purpose: Key
    channels: Annotated[tuple[Channel, ...], Meta(max_length=8)] = ()
    notice: Annotated[str, Meta(pattern=r"^[a-z0-9_.-]{1,64}@[1-9][0-9]{0,8}(?!\n)$")] | None = None
    occurred_at: datetime | None = None


class _NativeLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data_subject: _NativeSubject
    events: tuple[_NativeEvent, ...]
    row: str | None = None


def native(lines: Iterable[bytes]) -> Iterator[Row | Unreadable]:
    """Rows of our NDJSON: a line is `{"row"?, "data_subject": {id, identifiers, jurisdiction}, "events": [{kind, purpose, channels, notice, occurred_at}]}`.

    Several events of a line share the line's first `occurred_at`; a line without one is dated now.
    """
    decode = msgspec.json.Decoder(_NativeLine).decode
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        if len(raw) > LONGEST_LINE:
            yield Unreadable(number, "the line is longer than 64 KiB")
            continue
        try:
            line = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield Unreadable(number, "the line is no JSON object of this form")
            continue
        place = line.data_subject.jurisdiction
        if place is not None and not is_jurisdiction(place):
            yield Unreadable(
                number, "the jurisdiction is no code of a country or of a part of one, such as DE or US-CA"
            )
            continue
        times = [event.occurred_at for event in line.events if event.occurred_at is not None]
        if any(at.tzinfo is None for at in times) or len(set(times)) > 1:
            yield Unreadable(
                number, "events of one line share one instant, with a time zone; use a line for each instant"
            )
            continue
        at = _in_range(times[0]) if times else None
        if times and at is None:
            yield Unreadable(number, "the instant is before the year 1 or after 9999 in UTC")
            continue
        who = (
            *((Identifier("id", line.data_subject.id),) if line.data_subject.id else ()),
            *line.data_subject.identifiers,
        )
        choices = tuple(
            ImportedChoice(event.kind, event.purpose, tuple(map(str, event.channels)), event.notice)
            for event in line.events
        )
        yield Row(
            number,
            line.row or str(number),
            who,
            at,
            choices,
            (),
            place,
        )


_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))? ?(Z|[+-]\d\d:?\d\d)", re.ASCII)


def transcend(lines: Iterable[bytes], purposes: Mapping[str, str]) -> Iterator[Row | Unreadable]:
    """Rows of Transcend's preference upload: `identifier,timestamp`, a column a purpose (true, false), and columns of topics.

    `purposes` maps a column to a purpose of the policy, or to "-" to leave it out. Raises Invalid if a column of
    purposes is not mapped: a refusal must not be lost because nobody looked.
    """
    reader = csv.reader(_text(lines), strict=True)
    try:
        header = next(reader, None)
    except (csv.Error, UnicodeDecodeError):
        header = None
    if header is None or header[:2] != ["identifier", "timestamp"]:
        raise Invalid("the file is no Transcend preference upload: its first columns are identifier and timestamp")
    unknown = sorted(set(purposes) - set(header[2:]))
    if unknown:
        raise Invalid(f"the file has no column {unknown[0]}")
    number = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            why = (
                "it is not UTF-8"
                if isinstance(error, UnicodeDecodeError)
                else "a quote is not closed, or a cell is malformed"
            )
            yield Unreadable(max(number + 1, reader.line_num), why)
            return
        number += 1
        if cells:
            yield _transcend_row(number, header, cells, purposes)


def _text(lines: Iterable[bytes]) -> Iterator[str]:
    for number, raw in enumerate(lines):
        if len(raw) > LONGEST_LINE:
            raise csv.Error("line too long")
        yield raw.decode("utf-8-sig" if number == 0 else "utf-8")


def _transcend_row(number: int, header: list[str], cells: list[str], purposes: Mapping[str, str]) -> Row | Unreadable:
    if len(cells) != len(header):
        return Unreadable(number, f"the row has {len(cells)} cells, the header {len(header)}")
    at = _instant(cells[1])
    if at is None:
        return Unreadable(number, "the timestamp is not of the form 2025-03-21 10:49:21.192 -07:00")
    choices: list[ImportedChoice] = []
    lost: list[str] = []
    for column, cell in zip(header[2:], cells[2:], strict=True):
        word = cell.strip()
        if not word:
            continue  # nothing said: never "refused", never "granted"
        purpose = purposes.get(column)
        if word.lower() not in ("true", "false"):
            lost += [
                f"topic {topic.strip()} of {column}: this version holds no topic preferences"
                for topic in word.split(",")
                if topic.strip()
            ]
        elif purpose is None:
            raise Invalid(
                f"the column {column} holds choices and is not mapped: --map {column}=PURPOSE, or --map {column}=- to leave it out"
            )
        elif purpose == "-":
            lost.append(f"purpose {column}: left out by --map")
        else:
            choices.append(ImportedChoice("grant" if word.lower() == "true" else "off", purpose))
    return Row(
        number, f"{cells[0]}\n{cells[1]}", (Identifier("email", cells[0].strip()),), at, tuple(choices), tuple(lost)
    )


def _instant(text: str) -> int | None:
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        return None
    date, time, fraction, zone = match.groups()
    try:
        naive = datetime.fromisoformat(f"{date}T{time}")
    except ValueError:
        return None
    sign = -1 if zone[0] == "-" else 1
    offset = timedelta() if zone == "Z" else sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    if abs(offset) >= timedelta(days=1):
        return None
    seconds = _in_range(naive.replace(tzinfo=timezone(offset)))
    return None if seconds is None else seconds + int((fraction or "0").ljust(3, "0")[:3])


def _in_range(at: datetime) -> int | None:
    """The instant of an aware datetime; None if it cannot be written again: in UTC outside the years 1 to 9999."""
    try:
        return milliseconds(at.astimezone(UTC))
    except OverflowError:
        return None
