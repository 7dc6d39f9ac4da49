"""Refold everything from the ledger's entries and compare it with what is stored: states, identifiers, answers, credentials.

Opens what is sealed, so it needs the keys. Changes nothing: a difference is a finding, with the row's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from typing import Any
from uuid import UUID

import msgspec

from volenti.core.audit.verify import Finding
from volenti.core.data_subject import EMPTY, DataSubjectState, decode_state, evolve
from volenti.core.entry import Leaf, commitment, decode
from volenti.errors import Invalid, LedgerDamaged, NotFound
from volenti.flows.administer import opened_payload
from volenti.flows.clock import StandingClock, milliseconds, rfc3339
from volenti.flows.find_data_subject import index_of
from volenti.flows.manage_credentials import issued_payload
from volenti.flows.publish_policy import ACTIVATED, PUBLISHED
from volenti.flows.record_consents import stored_entries
from volenti.flows.seal_entries import SALT_BYTES, open_entry
from volenti.flows.services import Services
from volenti.keys.sealer import answer_context, holder_key_context, identifier_context, open_sealed, state_context
from volenti.store import credentials, data_subjects, idempotency, ledger, policies, workspaces
from volenti.store.data_subjects import EntryNeighbours, Payload
from volenti.store.database import Connection, translated
from volenti.store.workspaces import Deployment

FEED_KEPT_MS = 23 * 3_600_000
"""Entries younger than this must stand in the change feed: it is pruned after a day, by clocks that may differ a little."""


class Rebuilt(msgspec.Struct, frozen=True):
    """How much was refolded, and every difference."""

    workspace: str
    entries: int
    holders: int
    findings: tuple[Finding, ...]


async def rebuild(services: Services, *, workspaces_only: Collection[UUID] | None = None) -> list[Rebuilt]:
    """Refold every workspace (or some), each in one snapshot. Raises Invalid if the database belongs to other keys."""
    async with services.database.connection("volenti_admin") as connection:
        with translated("reading the workspaces"):
            bound = await workspaces.deployment(connection)
            known = await workspaces.names(connection)
    if bound is None or bound.key_fingerprint != services.keyring.fingerprint():
        raise Invalid("the database belongs to another key file")
    async with services.database.connection("volenti_app") as connection:
        with translated("polling the heads"):
            logs = {head.workspace_id for head in await ledger.heads(connection)}
    passes = [
        _Rebuild(services, workspace.workspace_id, workspace.name)
        for workspace in known
        if workspaces_only is None or workspace.workspace_id in workspaces_only
    ]
    results = [await one.run() for one in passes]
    named = logs if workspaces_only is None else set(workspaces_only)
    lost = sorted(named - {workspace.workspace_id for workspace in known})
    findings = [Finding(f"workspace {workspace_id}", "its row is missing") for workspace_id in lost]
    findings += _deployment(services, bound)
    epochs = [payload["epoch"] for one in passes for kind, _, payload in one.changes if kind == "log.recovered"]
    if workspaces_only is None and bound.epoch != max(epochs, default=1):
        findings.append(Finding("deployment", f"the epoch is {bound.epoch}, and no recovery on record made it so"))
    if findings:
        results.append(Rebuilt("deployment", 0, 0, tuple(findings)))
    return results


def _deployment(services: Services, bound: Deployment) -> list[Finding]:
    findings = []
    stands = bound.test_clock is not None
    if stands != isinstance(services.clock, StandingClock):
        findings.append(
            Finding("deployment", f"the database's clock {'stands' if stands else 'runs'}, the service's does not")
        )
    if stands and services.settings.profile == "production":
        findings.append(Finding("deployment", "the clock stands, in production"))
    return findings


class _Rebuild:
    """One workspace's pass; collects findings."""

    def __init__(self, services: Services, workspace_id: UUID, name: str) -> None:
        self.services, self.workspace_id, self.name = services, workspace_id, name
        self.findings: list[Finding] = []
        self.entries = self.holders = 0
        self.changes: list[tuple[str, int, dict[str, Any]]] = []  # the workspace's own entries: kind, time, payload

    def found(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))

    async def run(self) -> Rebuilt:
        async with self.services.database.workspace("volenti_app", self.workspace_id, snapshot=True) as connection:
            with translated("rebuilding the states"):
                try:
                    key = await self._workspace_key(connection)
                except (LedgerDamaged, NotFound):
                    self.found(
                        f"workspace {self.name}", "its key does not unwrap: another key file, or the row was altered"
                    )
                    return self._result()
                self.key = key
                await self._each_entry(connection)
                expected = await self._each_holder(connection, key)
                await self._identifiers(connection, expected)
                await self._answers(connection, key)
                await self._workspace_and_credentials(connection)
        return self._result()

    def _result(self) -> Rebuilt:
        return Rebuilt(self.name, self.entries, self.holders, tuple(self.findings))

    async def _workspace_key(self, connection: Connection) -> bytes:
        stored = await workspaces.by_id(connection, self.workspace_id)
        return await self.services.sealer.unwrap_workspace_key(self.workspace_id.bytes, stored.wrapped_key)

    async def _each_entry(self, connection: Connection) -> None:
        """Every entry has its payload, its holder if and only if it bears a tag, and its place in the change feed."""
        logs = await ledger.logs(connection, self.workspace_id)
        if not logs:
            self.found("log", f"workspace {self.name} has no log, or its log has no head")
        for head in logs:
            feed_begun = False
            async for entry in data_subjects.neighbours(connection, self.workspace_id, head.log_id):
                feed_begun = self._entry(_named(entry.index, head.log_id), entry, feed_begun)
        for table, count in (await data_subjects.strays(connection, self.workspace_id)).items():
            self.found(table, f"{count} rows belong to no entry")

    def _entry(self, where: str, entry: EntryNeighbours, feed_begun: bool) -> bool:
        """Look at one entry; returns whether the change feed has begun by now."""
        self.entries += 1
        try:
            leaf = decode(entry.leaf)
        except Invalid:
            self.found(where, "the leaf cannot be read")
            return feed_begun
        if leaf.tag is not None and entry.holder is None:
            self.found(where, "it bears a tag but belongs to nobody")
        if leaf.tag is None and entry.holder is not None:
            self.found(where, "it belongs to somebody but bears no tag")
        if entry.body is None:
            self.found(where, "its payload is missing")
        elif leaf.tag is None:
            self._workspace_entry(where, entry, leaf)
        kept = feed_begun or leaf.at_ms > self.services.clock() - FEED_KEPT_MS
        if kept and not entry.in_feed:
            self.found(where, "it is missing in the change feed")
        if entry.in_feed and entry.feed_holder != entry.holder:
            self.found(where, "the change feed names another holder")
        return feed_begun or entry.in_feed

    def _workspace_entry(self, where: str, entry: EntryNeighbours, leaf: Leaf) -> None:
        assert entry.body is not None
        salt, payload = entry.body[:SALT_BYTES], entry.body[SALT_BYTES:]
        if len(salt) != SALT_BYTES or commitment(salt, payload) != leaf.commitment:
            self.found(where, "it does not commit to its payload")
            return
        change = opened_payload(self.key, entry.entry_id, leaf.at_ms, leaf.kind, leaf.notice_hash, payload)
        if change is None:
            self.found(where, "the service did not record it: its payload was not made with the workspace's key")
            return
        self.changes.append((leaf.kind, leaf.at_ms, change))

    async def _each_holder(
        self, connection: Connection, workspace_key: bytes
    ) -> dict[bytes, tuple[UUID, bytes, str | None]]:
        """Fold every holder's entries and compare with the state row; returns the identifiers that the states hold."""
        expected: dict[bytes, tuple[UUID, bytes, str | None]] = {}
        seen: set[UUID] = set()
        async for holder, lineage in _grouped(data_subjects.lineages(connection, self.workspace_id)):
            seen.add(holder)
            self.holders += 1
            where = f"data subject {holder}"
            try:
                row = await data_subjects.by_holder(connection, self.workspace_id, holder)
                key = open_sealed(
                    workspace_key, row.wrapped_key, holder_key_context(self.workspace_id.bytes, holder.bytes)
                )
            except NotFound:
                self.found(where, "the key or the state row is missing")
                continue
            except LedgerDamaged:
                self.found(where, "the wrapped key does not open")
                continue
            state = self._folded(key, lineage)
            if state is None:
                continue
            for identifier in state.identifiers:
                expected[index_of(self.services, self.workspace_id, identifier)] = (holder, key, identifier.value)
            for known in state.blind_indexes:  # a recovery knew the HMAC only; the value comes when a caller states it
                expected.setdefault(bytes.fromhex(known), (holder, key, None))
            last = lineage[-1]
            if (row.revision, row.last_entry) != (last.index + 1, last.entry_id):
                self.found(
                    where,
                    f"the state row is not as of the last entry ({last.index}): an older row was put back, or its columns were altered",
                )
            try:
                stored = decode_state(
                    open_sealed(
                        key, row.sealed, state_context(self.workspace_id.bytes, holder.bytes, row.last_entry.bytes)
                    )
                )
            except (LedgerDamaged, msgspec.DecodeError):
                self.found(where, "the state row does not open")
                continue
            if stored != state:
                self.found(where, "the state differs from the fold of the entries")
        for holder in await data_subjects.holders(connection, self.workspace_id):
            if holder not in seen:
                self.found(f"data subject {holder}", "it has rows but no entries")
        return expected

    def _folded(self, key: bytes, lineage: list[Payload]) -> DataSubjectState | None:
        state = EMPTY
        for payload in lineage:
            try:
                state = evolve(state, open_entry(self.workspace_id, key, payload))
            except LedgerDamaged as error:
                self.found(f"entry {payload.index}", str(error))
                return None
        return state

    async def _identifiers(self, connection: Connection, expected: dict[bytes, tuple[UUID, bytes, str | None]]) -> None:
        stored = await data_subjects.identifiers(connection, self.workspace_id)
        for index, (holder, key, value) in expected.items():
            row_holder, sealed = stored.pop(index, (None, None))
            where = f"identifier {index.hex()[:16]} of data subject {holder}"
            if row_holder is None:
                self.found(where, "the row is missing")
            elif row_holder != holder:
                self.found(where, "it is bound to somebody else")
            elif not self._holds(key, index, sealed, value):
                self.found(where, "the sealed value does not open, or is another")
        for index in stored:
            self.found(f"identifier {index.hex()[:16]}", "no entry registered it")

    def _holds(self, key: bytes, index: bytes, sealed: bytes | None, value: str | None) -> bool:
        if sealed is None or value is None:
            return sealed is None and value is None
        try:
            return open_sealed(key, sealed, identifier_context(self.workspace_id.bytes, index)) == value.encode()
        except LedgerDamaged:
            return False

    async def _answers(self, connection: Connection, workspace_key: bytes) -> None:
        """Every stored answer opens for its key and request, and its entries stand where it says."""
        for credential_id, mac, row in await idempotency.all_rows(connection, self.workspace_id):
            where = f"idempotency row {mac.hex()[:16]}"
            try:
                ids = stored_entries(
                    open_sealed(
                        workspace_key,
                        row.answer,
                        answer_context(self.workspace_id.bytes, credential_id.bytes, mac, row.fingerprint),
                    )
                )
            except LedgerDamaged:
                self.found(where, "the answer does not open: key, fingerprint, credential or answer were altered")
                continue
            places = await ledger.places(connection, self.workspace_id, [UUID(entry) for entry in ids])
            stand = [places.get(UUID(entry)) for entry in ids]
            log = next((log_id for log_id, _ in places.values()), None)
            named = [(log, row.first_index + position) for position in range(len(ids))]
            if row.entry_count != len(ids) or stand != named:
                self.found(where, "its entries do not stand at the index that it names")

    async def _policies(self, connection: Connection) -> None:
        """Every policy's source text is the one that was published, and it is in force when its entries say; the rest the verification checks."""
        published = {payload["version"]: payload["source"] for kind, _, payload in self.changes if kind == PUBLISHED}
        for version in await policies.versions(connection, self.workspace_id):
            if published.get(version.version) != hashlib.sha256(version.source.encode()).hexdigest():
                self.found(f"policy version {version.version}", "the source text is not the one that was published")
        decreed = [
            (payload["version"], payload.get("active_from", rfc3339(at)))  # none before activations were: at once
            for kind, at, payload in self.changes
            if kind in (PUBLISHED, ACTIVATED)
        ]
        stored = {
            activation.number: (activation.version, rfc3339(milliseconds(activation.active_from)))
            for activation in await policies.activations(connection, self.workspace_id)
        }
        for number in sorted(stored.keys() | set(range(1, len(decreed) + 1))):
            if not 1 <= number <= len(decreed) or stored.get(number) != decreed[number - 1]:
                self.found(
                    f"policy activation {number}", "the version, or from when on it is in force, is not as recorded"
                )

    async def _workspace_and_credentials(self, connection: Connection) -> None:
        stored = await workspaces.by_id(connection, self.workspace_id)
        names = [payload["name"] for kind, _, payload in self.changes if kind == "workspace.created"]
        if names != [stored.name]:
            self.found(f"workspace {stored.name}", "the name is not the one that it was created with")
        if await workspaces.has_settings(connection, self.workspace_id):
            self.found(f"workspace {stored.name}", "settings that no entry made")
        await self._policies(connection)
        issued = {payload["credential"]: payload for kind, _, payload in self.changes if kind == "credential.issued"}
        revoked = {payload["credential"]: at for kind, at, payload in self.changes if kind == "credential.revoked"}
        for credential, mac in await credentials.of_workspace(connection, self.workspace_id):
            name = str(credential.credential_id)
            if issued.pop(name, None) != issued_payload(credential, mac):
                self.found(f"credential {name}", "the row is not what was issued")
            at = None if credential.revoked_at is None else milliseconds(credential.revoked_at)
            if at != revoked.get(name):
                self.found(f"credential {name}", "its revocation is not as recorded")
        for name in issued:
            self.found(f"credential {name}", "it was issued and its row is missing")


def _named(index: int, log_id: int) -> str:
    return f"entry {index}" if log_id == 1 else f"entry {index} of log {log_id}"


async def _grouped(rows: AsyncIterator[tuple[UUID, Payload]]) -> AsyncIterator[tuple[UUID, list[Payload]]]:
    holder: UUID | None = None
    lineage: list[Payload] = []
    async for owner, payload in rows:
        if owner != holder and holder is not None:
            yield holder, lineage
            lineage = []
        holder = owner
        lineage.append(payload)
    if holder is not None:
        yield holder, lineage
