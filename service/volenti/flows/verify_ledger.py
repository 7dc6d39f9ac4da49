"""Verify the stored ledger: everything that can be checked without a secret, in the live database or in a folder of tiles."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import groupby
from pathlib import Path
from uuid import UUID

from volenti.core.audit.verify import Finding, KeyPeriod, LogCheck, Report, check_files, read_checkpoints
from volenti.core.entry import Leaf, decode
from volenti.core.ledger import checkpoint, note, tile
from volenti.core.ledger.merkle import EMPTY_ROOT, TreeSize
from volenti.core.ledger.note import VerifierKey
from volenti.core.policy.canonical import parse_document
from volenti.core.policy.notice import PublishedNotice, newly_published
from volenti.errors import Invalid, VerificationError
from volenti.flows.clock import milliseconds
from volenti.flows.publish_policy import ACTIVATED, PUBLISHED
from volenti.flows.services import Services
from volenti.store import ledger, policies
from volenti.store.database import Connection, translated
from volenti.store.ledger import Head

Progress = Callable[[int, int], None]
"""Called with entries done and entries in all."""


async def verify(
    services: Services, *, progress: Progress = lambda done, total: None, workspaces: Sequence[UUID] | None = None
) -> list[Report]:
    """Verify every log (of some workspaces) in one snapshot each; a report a log, with every problem that was found.

    Compares leaves, hashes, ids, tiles, head, checkpoints and signatures, and the policies and their activations with
    the entries that name them. What is in payloads is the rebuild's to open: also from when on a version is in force.
    """
    async with services.database.connection("volenti_audit") as connection:
        with translated("reading the heads"):
            heads = await ledger.heads(connection)
    reports = []
    for workspace_id, logs in groupby(heads, key=lambda head: head.workspace_id):  # the oldest log first
        if workspaces is None or workspace_id in workspaces:
            decreed: list[tuple[str, Leaf]] = []
            *sealed, newest = logs
            reports += [await _verify_log(services, head, decreed, progress, newest=False) for head in sealed]
            reports.append(await _verify_log(services, newest, decreed, progress, newest=True))
    for workspace_id in set(workspaces or ()) - {head.workspace_id for head in heads}:
        lost = Finding("log", f"workspace {workspace_id} has no log, or its log has no head")
        reports.append(Report(f"workspace {workspace_id}", TreeSize(0), EMPTY_ROOT, (lost,), TreeSize(0)))
    return reports


async def _verify_log(
    services: Services, head: Head, decreed: list[tuple[str, Leaf]], progress: Progress, *, newest: bool
) -> Report:
    """Verify one log. `decreed` collects the entries that published or activated policies, over all logs of the workspace."""
    key = note.parse_vkey(services.signer.vkey(head.origin))
    anchored = None if services.anchor is None else await services.anchor.read(head.origin)
    async with services.database.workspace("volenti_audit", head.workspace_id, snapshot=True) as connection:
        with translated("verifying the ledger"):
            head = await _head(connection, head)
            stored = await ledger.checkpoints(connection, head.workspace_id, head.log_id)
            notes = [row.note for row in stored] + ([anchored] if anchored is not None and newest else [])
            signed, findings = read_checkpoints(head.origin, notes, [KeyPeriod(key)])
            check = LogCheck(head.origin, signed, findings)
            for row in stored:
                _compare_checkpoint(check, row)
            if head.state != ("active" if newest else "sealed"):
                check.findings.append(Finding("log", f"the log is {head.state}"))
            tiles = await ledger.tiles(connection, head.workspace_id, head.log_id)
            expected = 0
            async for entry in ledger.all_entries(connection, head.workspace_id, head.log_id):
                if entry.index != expected:
                    check.findings.append(_gap(expected, entry.index))
                expected = entry.index + 1
                for full in check.add(entry.leaf, entry.leaf_hash):
                    root, hashes = tiles.pop((full.level, full.index), (b"", None))
                    check.compare(full.tile, full.hashes, hashes)
                    if hashes is not None:
                        check.compare_root(full, root)
                leaf = _leaf(entry.leaf)
                if leaf is not None and leaf.id != str(entry.id):
                    check.findings.append(
                        Finding(
                            f"entry {entry.index}",
                            "the id that it is stored under is not the id that it was signed with",
                        )
                    )
                if leaf is not None and leaf.kind in (PUBLISHED, ACTIVATED):
                    decreed.append((str(entry.id), leaf))
                if entry.index % 10_000 == 0:
                    progress(entry.index, head.size)
            progress(head.size, head.size)
            if expected < head.size:
                check.findings.append(_gap(expected, head.size))
            check.compare_head(head.size, head.root, await ledger.frontier(connection, head.workspace_id, head.log_id))
            check.findings += [
                Finding(tile.Tile(level, index).path, "a tile that the log does not have")
                for level, index in sorted(tiles)
            ]
            for table, count in (await ledger.orphans(connection, head.workspace_id)).items():
                check.findings.append(Finding(table, f"{count} rows are of a log that the workspace does not have"))
            if newest:
                published = [(entry_id, leaf) for entry_id, leaf in decreed if leaf.kind == PUBLISHED]
                check.findings += [finding async for finding in _policies(connection, head.workspace_id, published)]
                check.findings += [finding async for finding in _activations(connection, head.workspace_id, decreed)]
    return check.report()


def _gap(expected: int, found: int) -> Finding:
    """What stands between an entry and the next one, or the end, where they should be adjacent."""
    if found < expected:
        return Finding(f"entry {found}", "no entry has this index")
    others = found - expected - 1
    return Finding(f"entry {expected}", "it is missing" if not others else f"it and the next {others} are missing")


async def _head(connection: Connection, polled: Head) -> Head:
    """The head as the snapshot sees it: the one that was polled may be older."""
    rows = [
        head
        for head in await ledger.heads(connection)
        if (head.workspace_id, head.log_id) == (polled.workspace_id, polled.log_id)
    ]
    return rows[0] if rows else polled


def _compare_checkpoint(check: LogCheck, row: ledger.StoredCheckpoint) -> None:
    where = f"checkpoint of size {row.size}"
    try:
        head = checkpoint.parse(note.parse(row.note).text)
    except VerificationError as error:
        check.findings.append(Finding(where, f"its note cannot be read: {error}"))
        return
    if head.size != row.size:
        check.findings.append(Finding(f"checkpoint of size {head.size}", f"its row says that its size is {row.size}"))
    if head.root != row.root:
        check.findings.append(Finding(where, "the root in its row is not the one that its note signs"))


def _leaf(encoded: bytes) -> Leaf | None:
    try:
        return decode(encoded)
    except Invalid:
        return None  # reported by LogCheck


async def _policies(
    connection: Connection, workspace_id: UUID, published: list[tuple[str, Leaf]]
) -> AsyncIterator[Finding]:
    """Compare the stored policies and notices with the entries that published them, in their order."""
    versions = await policies.versions(connection, workspace_id)
    known: list[PublishedNotice] = []
    expected: dict[tuple[str, int], policies.NoticeRow] = {}
    for number, (entry_id, leaf) in enumerate(published, 1):
        where = f"policy version {number}"
        row = next((version for version in versions if version.version == number), None)
        if row is None:
            yield Finding(where, f"it was published by entry {entry_id} and is missing")
            continue
        if str(row.entry_id) != entry_id or milliseconds(row.published_at) != leaf.at_ms:
            yield Finding(where, f"its entry or its time is not that of entry {entry_id}, which published it")
        if not hashlib.sha256(row.document).digest() == row.hash == leaf.notice_hash:
            yield Finding(where, f"the document is not the one that entry {entry_id} published")
        try:
            policy = parse_document(row.document)
        except Invalid as error:
            yield Finding(where, str(error))
            continue
        fresh = newly_published(policy.notices, known)
        expected |= {
            (notice.notice, notice.version): policies.NoticeRow(
                notice.notice, notice.version, notice.change, notice.hash, number, row.published_at
            )
            for notice in fresh
        }
        known += fresh
    for extra in (version.version for version in versions if not 1 <= version.version <= len(published)):
        yield Finding(f"policy version {extra}", "no entry published it")
    stored = {(row.notice, row.version): row for row in await policies.notice_rows(connection, workspace_id)}
    for name, number in sorted(expected.keys() | stored.keys()):
        where = f"notice {name}@{number}"
        if (name, number) not in expected:
            yield Finding(where, "no policy published it")
        elif (name, number) not in stored:
            yield Finding(where, "it was published and its row is missing")
        elif stored[name, number] != expected[name, number]:
            yield Finding(where, "the row is not what was published")


async def _activations(
    connection: Connection, workspace_id: UUID, decreed: list[tuple[str, Leaf]]
) -> AsyncIterator[Finding]:
    """Compare the stored activations with the entries that made them, in their order."""
    hashes = {version.version: version.hash for version in await policies.versions(connection, workspace_id)}
    stored = {activation.number: activation for activation in await policies.activations(connection, workspace_id)}
    for number, (entry_id, leaf) in enumerate(decreed, 1):
        where, row = f"policy activation {number}", stored.pop(number, None)
        if row is None:
            yield Finding(where, f"it was recorded by entry {entry_id} and is missing")
            continue
        if str(row.entry_id) != entry_id or milliseconds(row.recorded_at) != leaf.at_ms:
            yield Finding(where, f"its entry or its time is not that of entry {entry_id}, which recorded it")
        if hashes.get(row.version) != leaf.notice_hash:
            yield Finding(where, f"it is not of the document that entry {entry_id} names")
    for extra in stored:
        yield Finding(f"policy activation {extra}", "no entry recorded it")


def verify_folder(folder: Path, key: VerifierKey) -> Report:
    """Verify a folder in the C2SP layout (checkpoint, tile/…) against a trusted key; no service, no database.

    Raises VerificationError if the checkpoint itself does not verify: then nothing in the folder means anything.
    """
    path = folder / "checkpoint"
    if not path.is_file():
        raise Invalid(f"{folder} holds no checkpoint")
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    head = checkpoint.verify(text, [key])
    signed, findings = read_checkpoints(head.origin, [text], [KeyPeriod(key)])
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    check = LogCheck(head.origin, signed, [*findings, *check_files(names, head.size)])

    def read(name: str) -> bytes | None:
        file = folder / name
        return file.read_bytes() if file.is_file() else None

    for bundle in tile.expected_bundles(head.size):
        for full, computed in check.add_bundle(bundle, read(bundle.path), read(bundle.tile.path)):
            check.compare(full, computed, read(full.path))
    for partial, computed in check.partial_tiles():
        check.compare(partial, computed, read(partial.path))
    return check.report()
