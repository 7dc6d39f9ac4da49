"""Import choices from another system: ordinary entries with actor `import`, and a report of what became of each row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import islice
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from volenti.core.admission import Choice, Command, Facts, Refusal
from volenti.core.consent import scopes, settle
from volenti.core.data_subject import EMPTY, DataSubjectState, Source
from volenti.errors import Invalid, Unavailable
from volenti.flows.clock import uuid7
from volenti.flows.find_data_subject import find
from volenti.flows.read_imports import ImportedChoice, Row, Unreadable
from volenti.flows.record_consents import IdentifierTaken, KeyMisused, Recorded, record, rehearse
from volenti.flows.services import Services
from volenti.keys.blind import import_entry_seed
from volenti.store import ledger

T = TypeVar("T")

CHUNK = 256
LANES = 16
"""People whose rows are applied at the same moment: more would only queue for the database's connections, and time out."""
PAUSES = (0.2, 1.0, 5.0)
"""Seconds before a row is tried again when the database is too busy or away: one slow moment must not end a long run."""
COMPONENT = "import"


class Report(msgspec.Struct, frozen=True):
    """What became of the rows. `skipped` and `lost` count by reason; `details` names the rows, by number, never by person."""

    rows: int
    applied: int
    without_effect: int
    already_there: int
    skipped: Mapping[str, int]
    lost: Mapping[str, int]
    details: tuple[tuple[int, str], ...]


Rows: TypeAlias = Callable[[], Iterable[Row | Unreadable]]
"""Reads the file from its beginning, each time it is called."""


def unreadable(rows: Rows) -> list[Unreadable]:
    """The lines that cannot be read. If there are any, nothing may be applied."""
    return [row for row in rows() if isinstance(row, Unreadable)]


async def import_choices(
    services: Services,
    workspace_id: UUID,
    source: str,
    rows: Rows,
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Apply rows that are known to be readable; with `dry_run` decide each and write nothing.

    Entry ids derive from source, row and choice, so a second run adds nothing. Rows of one person are applied in the
    order of the file, those of different people side by side. Raises Invalid if a purpose does not exist.
    """
    tally, room = _Tally(), asyncio.Semaphore(LANES)
    readable = (row for row in rows() if isinstance(row, Row))
    while chunk := list(islice(readable, CHUNK)):
        known = await _persistently(lambda rows=chunk: _known(services, workspace_id, source, rows))
        lanes: dict[object, list[Row]] = {}
        for row in chunk:
            lanes.setdefault(row.who[0] if row.who else row.number, []).append(row)
        await asyncio.gather(
            *(_lane(services, workspace_id, source, lane, known, tally, dry_run, room) for lane in lanes.values())
        )
        progress(tally.rows)
    return tally.report()


async def _lane(
    services: Services,
    workspace_id: UUID,
    source: str,
    rows: list[Row],
    known: set[UUID],
    tally: _Tally,
    dry_run: bool,
    room: asyncio.Semaphore,
) -> None:
    async with room:
        for row in rows:
            tally.rows += 1
            for lost in row.lost:
                tally.lost[lost] += 1
            tally.count(
                row.number,
                await _persistently(lambda row=row: _apply(services, workspace_id, source, row, known, dry_run)),
            )


async def _persistently(attempt: Callable[..., Coroutine[Any, Any, T]]) -> T:
    """Try again a few times where the database does not answer: entry ids are fixed, so nothing happens twice."""
    for pause in PAUSES:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(pause)
    return await attempt()


async def _known(services: Services, workspace_id: UUID, source: str, rows: list[Row]) -> set[UUID]:
    """Which of the rows' entries are in the ledger already."""
    ids = [entry_id for row in rows for entry_id in _ids(services, workspace_id, source, row)]
    async with services.database.workspace("volenti_app", workspace_id) as connection:
        return set(await ledger.places(connection, workspace_id, ids))


def _ids(services: Services, workspace_id: UUID, source: str, row: Row) -> tuple[UUID, ...]:
    """The ids of a row's entries: of its facts, and of each choice."""
    names = ("facts", *map(_name, row.choices))
    return tuple(_entry_id(services, workspace_id, source, row, name) for name in names)


async def _apply(
    services: Services, workspace_id: UUID, source: str, row: Row, known: set[UUID], dry_run: bool
) -> str | None:
    """None if the row was applied and is in force; else a word for the report."""
    if not row.choices:
        return "nothing_said"
    if not row.who:
        return "no_identifier"
    ids = _ids(services, workspace_id, source, row)
    if known.issuperset(ids[1:]):
        return "already_there"
    try:
        person = (await find(services, workspace_id, row.who)).person
    except Invalid as error:
        return f"identifier_invalid: {error}"
    command = Command(
        actor="import",
        component=COMPONENT,
        choices=tuple(_choice(choice, row, EMPTY if person is None else person.state) for choice in row.choices),
        facts=Facts(jurisdiction=row.jurisdiction),
        source=Source(source, str(row.number)),
    )
    outcome = await (
        rehearse(services, workspace_id, command, row.who, ids)
        if dry_run
        else record(services, workspace_id, command, row.who, ids=ids)
    )
    match outcome:
        case Recorded():
            return None if all(entry.applied for entry in outcome.entries) else "without_effect"
        case Refusal(code="entry_exists"):
            return "already_there"
        case Refusal(code="purpose_unknown"):
            raise Invalid(f"row {row.number}: the policy has no such purpose; map it with --map")
        case Refusal():
            return outcome.code
        case IdentifierTaken():
            return "identifier_taken"
        case KeyMisused():  # an import sends no idempotency key
            raise AssertionError


def _choice(choice: ImportedChoice, row: Row, state: DataSubjectState) -> Choice:
    events = state.on(choice.purpose)
    kind = choice.kind
    if kind == "off":
        kind = "withdraw" if any(settle(events, channel).state == "granted" for channel in scopes(events)) else "deny"
    return Choice(kind=kind, purpose=choice.purpose, channels=choice.channels, notice=choice.notice, claimed_at=row.at)


def _name(choice: ImportedChoice) -> str:
    return f"{choice.purpose}\n{choice.kind}\n{','.join(choice.channels)}"


def _entry_id(services: Services, workspace_id: UUID, source: str, row: Row, event: str) -> UUID:
    """The same id for the same choice of the same row of the same source, whenever it is imported."""
    name = f"{event}\n{'' if row.at is None else row.at}"
    seed = import_entry_seed(services.keyring.pepper, workspace_id.bytes, source, row.name, name)
    return uuid7(row.at or 0, seed[:10])


class _Tally:
    def __init__(self) -> None:
        self.rows = self.applied = self.without_effect = self.already_there = 0
        self.skipped: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.details: list[tuple[int, str]] = []

    def count(self, number: int, outcome: str | None) -> None:
        match outcome:
            case None:
                self.applied += 1
            case "without_effect":
                self.applied += 1
                self.without_effect += 1
                self.details.append((number, "recorded without effect: a newer choice of the person stands"))
            case "already_there":
                self.already_there += 1
            case _:
                self.skipped[outcome] += 1
                self.details.append((number, f"skipped: {outcome}"))

    def report(self) -> Report:
        return Report(
            self.rows,
            self.applied,
            self.without_effect,
            self.already_there,
            dict(self.skipped),
            dict(self.lost),
            tuple(sorted(self.details)),
        )


def mapping(pairs: Iterable[str]) -> dict[str, str]:
    """`COLUMN=PURPOSE` options as a mapping. Raises Invalid for one without `=`."""
    found: dict[str, str] = {}
    for pair in pairs:
        column, sign, purpose = pair.partition("=")
        if not (column and sign and purpose):
            raise Invalid("--map takes COLUMN=PURPOSE, or COLUMN=- to leave a column out")
        found[column] = purpose
    return found
