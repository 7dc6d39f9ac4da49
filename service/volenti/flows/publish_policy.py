"""Publish a policy, and say which version is in force from when on: store it, record it in the ledger."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from volenti.core.policy.canonical import document_bytes, parse_document
from volenti.core.policy.document import Policy
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import lint, lint_succession
from volenti.core.policy.notice import PublishedNotice, newly_published, stood_on
from volenti.flows.administer import Change, change
from volenti.flows.clock import instant, milliseconds, rfc3339
from volenti.flows.profiles import shipped
from volenti.flows.record_consents import KeyMisused, Retry
from volenti.flows.services import Services
from volenti.store import ledger, policies, workspaces
from volenti.store.database import Turn, take_turn
from volenti.store.policies import Activation, PolicyVersion

ACTIVATED = "policy.activated"
PUBLISHED = "policy.published"


class Published(msgspec.Struct, frozen=True):
    """Committed: from `active_from` on (milliseconds) checks decide by this published version, until the next activation."""

    version: int
    hash: bytes
    entry: str
    active_from: int
    epoch: int
    size: int
    warnings: tuple[Finding, ...] = ()
    repeated: bool = False
    """It was so already; nothing new was recorded."""
    replayed: bool = False
    """The Idempotency-Key was used before: this is what was answered then."""


class Rejected(msgspec.Struct, frozen=True):
    """The document has errors; nothing was published."""

    findings: tuple[Finding, ...]


class TooLate(msgspec.Struct, frozen=True):
    """The instant has passed; nothing was recorded. What was in force stays what it was."""


Publication: TypeAlias = Published | Rejected | TooLate | KeyMisused
Activated: TypeAlias = Published | TooLate | KeyMisused


async def publish(
    services: Services,
    workspace_id: UUID,
    text: str,
    *,
    activate_at: int | None = None,
    retry: Retry | None = None,
) -> Publication:
    """Publish a document as the workspace's next version, in force from an instant on (None: at once).

    One that is in force then anyhow is not published again.
    """
    linted = await asyncio.to_thread(lint, text, shipped())  # a long text takes a moment; checks go on meanwhile
    if linted.policy is None:
        return Rejected(linted.findings)
    document = document_bytes(linted.policy)
    async with _turn(services, workspace_id, activate_at, retry) as turn:
        if (answered := await turn.answered()) is not None:
            return (
                msgspec.structs.replace(answered, warnings=linted.findings)
                if isinstance(answered, Published)
                else answered
            )
        standing = await turn.standing()
        if standing is not None and standing[1].document == document:
            return await turn.answer(*standing, warnings=linted.findings, repeated=True)
        if turn.late:
            return TooLate()
        findings = await _succession(turn, linted.policy, linted.lines)
        if any(finding.severity == "error" for finding in findings):
            return Rejected((*linted.findings, *findings))
        number = await policies.newest(turn.connection, workspace_id) + 1
        version, activation = await insert(
            turn.transaction, linted.policy, text, number=number, active_from=turn.at, retry=retry
        )
        # Committed when the turn ends: from `active_from` on every check decides by this version.
        return await turn.answer(activation, version, warnings=(*linted.findings, *findings))


async def activate(
    services: Services, workspace_id: UUID, number: int, *, at: int | None = None, retry: Retry | None = None
) -> Activated:
    """Make a published version the one in force from an instant on (None: at once): a rollback, or a release ahead of its day.

    Raises NotFound if the version was not published.
    """
    async with _turn(services, workspace_id, at, retry) as turn:
        version = await policies.version(turn.connection, workspace_id, number)
        if (answered := await turn.answered()) is not None:
            return answered
        standing = await turn.standing()
        if standing is not None and standing[1].version == number:
            return await turn.answer(*standing, repeated=True)
        if turn.late:
            return TooLate()
        activation = await _activation(turn.transaction, number, turn.at, turn.transaction.services.new_id())
        payload = {"version": number, "active_from": rfc3339(milliseconds(turn.at))}
        await _record(turn.transaction, ACTIVATED, payload, activation, version.hash, retry)
        # Committed when the turn ends: from `active_from` on every check decides by this version.
        return await turn.answer(activation, version)


class _Turn:
    """A change of what is in force: one at a time in a workspace. `at` is the instant that it is about, by the database's clock."""

    def __init__(self, transaction: Change, at: datetime, retry: Retry | None, *, late: bool) -> None:
        self.transaction, self.connection = transaction, transaction.connection
        self.at, self.retry, self.late = at, retry, late

    async def answered(self) -> Published | KeyMisused | None:
        """The first answer, if the request came with an Idempotency-Key that was used before."""
        found = None if self.retry is None else await self.transaction.repeated(self.retry)
        if not isinstance(found, tuple):
            return found
        entry_id, size = found
        activation = await policies.activation_of(self.connection, self.transaction.workspace_id, entry_id)
        version = await policies.version(self.connection, self.transaction.workspace_id, activation.version)
        return msgspec.structs.replace(await self.answer(activation, version), size=size, replayed=True)

    async def standing(self) -> tuple[Activation, PolicyVersion] | None:
        """What is in force at the instant as things are; of an instant that has passed, only what began just then."""
        workspace_id = self.transaction.workspace_id
        found = await policies.in_force(self.connection, workspace_id, self.at)
        if found is None or (self.late and found.activation.active_from != self.at):
            return None
        return found.activation, await policies.version(self.connection, workspace_id, found.activation.version)

    async def answer(
        self,
        activation: Activation,
        version: PolicyVersion,
        *,
        warnings: Sequence[Finding] = (),
        repeated: bool = False,
    ) -> Published:
        head = await ledger.head(self.connection, self.transaction.workspace_id)
        epoch = await workspaces.epoch(self.connection)
        entry, active_from = str(activation.entry_id), milliseconds(activation.active_from)
        return Published(
            version.version, version.hash, entry, active_from, epoch, head.size, tuple(warnings), repeated=repeated
        )


@asynccontextmanager
async def _turn(services: Services, workspace_id: UUID, at: int | None, retry: Retry | None) -> AsyncIterator[_Turn]:
    async with change(services, workspace_id) as transaction:
        await take_turn(transaction.connection, Turn.PUBLISH, str(workspace_id))
        now = await policies.now(transaction.connection)
        asked = now if at is None else instant(at)
        yield _Turn(transaction, asked, retry, late=asked < now)


async def _succession(turn: _Turn, policy: Policy, lines: Mapping[str, int]) -> tuple[Finding, ...]:
    """What forbids the policy to follow those that are in force before it; one that waits for a later day binds nobody yet."""
    connection, workspace_id = turn.connection, turn.transaction.workspace_id
    before = [parse_document(one.document) for one in await policies.came_into_force(connection, workspace_id, turn.at)]
    known = await policies.notices(connection, workspace_id, up_to=await policies.newest(connection, workspace_id))
    binding = {*stood_on(policy.notices, known), *(one for one in known if _shown(one, turn.at))}
    previous = None
    if before:
        purposes = {key: purpose for one in before for key, purpose in one.purposes.items()}
        previous = msgspec.structs.replace(before[-1], purposes=purposes)
    return lint_succession(policy, list(binding), previous=previous, lines=lines)


def _shown(notice: PublishedNotice, by: datetime) -> bool:
    return notice.published_at is not None and notice.published_at <= by


async def insert(
    transaction: Change,
    policy: Policy,
    text: str,
    *,
    number: int,
    active_from: datetime,
    retry: Retry | None = None,
) -> tuple[PolicyVersion, Activation]:
    """Store a version, when it comes into force, and the entry of both, within an open change; the caller has linted it."""
    connection, workspace_id = transaction.connection, transaction.workspace_id
    document = document_bytes(policy)
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
    activation = await _activation(transaction, number, active_from, version.entry_id)
    payload = {
        "version": number,
        "active_from": rfc3339(milliseconds(active_from)),
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
    await _record(transaction, PUBLISHED, payload, activation, version.hash, retry)
    return version, activation


async def _activation(transaction: Change, version: int, active_from: datetime, entry_id: UUID) -> Activation:
    return await policies.activate(
        transaction.connection,
        transaction.workspace_id,
        version,
        active_from=active_from,
        recorded_at=instant(transaction.now),
        entry_id=entry_id,
    )


async def _record(
    transaction: Change,
    kind: str,
    payload: dict[str, object],
    activation: Activation,
    content_hash: bytes,
    retry: Retry | None,
) -> None:
    head = await ledger.head(transaction.connection, transaction.workspace_id)
    await transaction.record(
        kind,
        payload,
        entry_id=activation.entry_id,
        log_id=head.log_id,
        purposes=(),
        content_hash=content_hash,
        retry=retry,
    )
