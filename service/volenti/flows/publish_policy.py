"""Publish a policy: lint, compare with what was published, store version and notices, record it in the ledger."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.policy.canonical import document_bytes, parse_document
from volenti.core.policy.document import Policy
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import lint, lint_succession
from volenti.core.policy.notice import newly_published
from volenti.flows.administer import Change, change
from volenti.flows.clock import instant
from volenti.flows.profiles import shipped
from volenti.flows.services import Services
from volenti.store import ledger, policies, workspaces
from volenti.store.database import Turn, take_turn
from volenti.store.policies import PolicyVersion


class Published(msgspec.Struct, frozen=True):
    """Committed: the next check decides by this version."""

    version: int
    hash: bytes
    entry: str
    index: int
    epoch: int
    size: int
    warnings: tuple[Finding, ...]
    repeated: bool = False
    """The document was in force already; nothing new was recorded."""


class Rejected(msgspec.Struct, frozen=True):
    """The document has errors; nothing was published."""

    findings: tuple[Finding, ...]


Publication: TypeAlias = Published | Rejected


async def publish(services: Services, workspace_id: UUID, text: str) -> Publication:
    """Publish a document as the workspace's next version; one that is in force already is not published again."""
    linted = await asyncio.to_thread(lint, text, shipped())  # a long text takes a moment; checks go on meanwhile
    if linted.policy is None:
        return Rejected(linted.findings)
    async with change(services, workspace_id) as transaction:
        await take_turn(transaction.connection, Turn.PUBLISH, str(workspace_id))
        versions = await policies.versions(transaction.connection, workspace_id)
        newest = versions[-1] if versions else None
        notices = await policies.notices(transaction.connection, workspace_id, up_to=len(versions))
        findings = lint_succession(
            linted.policy,
            notices,
            previous=parse_document(newest.document) if newest is not None else None,
            lines=linted.lines,
        )
        if any(finding.severity == "error" for finding in findings):
            return Rejected((*linted.findings, *findings))
        if newest is not None and newest.document == document_bytes(linted.policy):
            return await _in_force(transaction, newest)
        epoch = await workspaces.epoch(transaction.connection)
        version = await insert(transaction, linted.policy, text, number=len(versions) + 1)
    return Published(
        version.version,
        version.hash,
        str(version.entry_id),
        transaction.first_index,
        epoch,
        transaction.tree_size,
        (*linted.findings, *findings),
    )


async def _in_force(transaction: Change, newest: PolicyVersion) -> Published:
    """The answer to a document that is in force already: a retry adds no version."""
    head = await ledger.head(transaction.connection, transaction.workspace_id)
    entry = await ledger.entry(transaction.connection, transaction.workspace_id, head.log_id, newest.entry_id)
    epoch = await workspaces.epoch(transaction.connection)
    return Published(
        newest.version, newest.hash, str(newest.entry_id), entry.index, epoch, entry.index + 1, (), repeated=True
    )


async def insert(transaction: Change, policy: Policy, text: str, *, number: int) -> PolicyVersion:
    """Store a version and its entry within an open change; the caller has linted it."""
    connection, workspace_id = transaction.connection, transaction.workspace_id
    document = document_bytes(policy)
    head = await ledger.head(connection, workspace_id)
    version = PolicyVersion(
        number,
        hashlib.sha256(document).digest(),
        document,
        text,
        instant(transaction.now),
        transaction.services.new_id(),
    )
    known = await policies.notices(connection, workspace_id, up_to=number)
    fresh = newly_published(policy.notices, known)
    await policies.publish(connection, workspace_id, version, list(fresh))
    payload = {
        "version": number,
        "source": hashlib.sha256(text.encode()).hexdigest(),
        "notices": [
            {
                "notice": notice.notice,
                "version": notice.version,
                "change": str(notice.change),
                "hash": notice.hash.hex(),
            }
            for notice in fresh
        ],
    }
    await transaction.record(
        "policy.published",
        payload,
        entry_id=version.entry_id,
        log_id=head.log_id,
        purposes=(),
        content_hash=version.hash,
    )
    return version
