"""The collaborators of every flow, built once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from volenti.core.policy.canonical import parse_document
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.core.policy.notice import PublishedNotice, stood_on
from volenti.flows.clock import Clock, Entropy, instant, milliseconds, uuid7
from volenti.flows.compiled_policies import CompiledPolicies, Key
from volenti.flows.log_decisions import DecisionLog
from volenti.flows.profiles import profiles_of
from volenti.keys.keyring import Keyring
from volenti.keys.sealer import Sealer
from volenti.keys.signer import Signer
from volenti.settings import Settings
from volenti.store import policies, workspaces
from volenti.store.anchor import AnchorStore
from volenti.store.appender import Appender
from volenti.store.data_subjects import Ground
from volenti.store.database import Database
from volenti.store.journal import Journal
from volenti.store.state_reader import StateReader


@dataclass(frozen=True)
class Services:
    """What a flow may use. Everything that has an effect on the world is in here, and nothing else has one."""

    database: Database
    appender: Appender
    keyring: Keyring
    signer: Signer
    sealer: Sealer
    clock: Clock
    entropy: Entropy
    settings: Settings
    anchor: AnchorStore | None = None
    journal: Journal | None = None
    _workspace_keys: dict[UUID, bytes] = field(default_factory=dict, repr=False)
    _policies: CompiledPolicies = field(default_factory=CompiledPolicies, repr=False)

    reader: StateReader = field(init=False, repr=False)
    decisions: DecisionLog = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", StateReader(self.database))  # of this database, whatever else is replaced
        object.__setattr__(self, "decisions", DecisionLog(self.database, self.entropy))

    def new_id(self) -> UUID:
        """A fresh UUIDv7 of this instant."""
        return uuid7(self.clock(), self.entropy(10))

    async def workspace_key(self, workspace_id: UUID) -> bytes:
        """The key that wraps a workspace's holders' keys; unwrapped once a process. Raises NotFound."""
        if workspace_id not in self._workspace_keys:
            async with self.database.workspace("volenti_app", workspace_id) as connection:
                stored = await workspaces.by_id(connection, workspace_id)
            self._workspace_keys[workspace_id] = await self.sealer.unwrap_workspace_key(
                workspace_id.bytes, stored.wrapped_key
            )
        return self._workspace_keys[workspace_id]

    async def policy(self, workspace_id: UUID, ground: Ground) -> CompiledPolicy | None:
        """The policy that was in force when the ground was read, compiled; None if none was."""
        if ground.policy_version is None or ground.policy_activation is None:
            return None
        key = Key(workspace_id, ground.policy_version, ground.policy_activation, ground.epoch)
        return await self._compiled(key, milliseconds(ground.at))

    async def policy_in_force(
        self, workspace_id: UUID, at_ms: int, known_at_ms: int
    ) -> tuple[int, CompiledPolicy] | None:
        """The version in force at an instant by what was recorded until another, and its compiled form; None if none was.

        Later than the present it is what the schedule says; `known_at_ms` before it answers as was answered then.
        """
        async with self.database.workspace("volenti_app", workspace_id) as connection:
            found = await policies.in_force(connection, workspace_id, instant(at_ms), instant(known_at_ms))
        if found is None:
            return None
        key = Key(workspace_id, found.activation.version, found.activation.number, found.epoch, found.known)
        return key.version, await self._compiled(key, at_ms)

    async def policy_version(self, workspace_id: UUID, version: int, at_ms: int) -> CompiledPolicy:
        """A published version as it binds at an instant, in force then or not. Raises NotFound.

        It does not know since when its notices may be shown: good for decisions, not for writes.
        """
        async with self.database.workspace("volenti_app", workspace_id) as connection:
            epoch = await workspaces.epoch(connection)
        return await self._compiled(Key(workspace_id, version, 0, epoch, known=0), at_ms)

    async def _compiled(self, key: Key, at_ms: int) -> CompiledPolicy:
        policy = self._policies.find(key, at_ms)
        if policy is not None:
            return policy
        async with self._policies.turn(key):  # who comes second finds it
            policy = self._policies.find(key, at_ms)
            if policy is None:
                async with self.database.workspace("volenti_app", key.workspace_id) as connection:
                    stored = await policies.version(connection, key.workspace_id, key.version)
                    notices = await policies.notices(connection, key.workspace_id, up_to=key.version, known=key.known)
                policy = await asyncio.to_thread(_compile, stored.document, notices, at_ms)
                self._policies.keep(key, at_ms, policy)
        return policy


def _compile(document: bytes, notices: Sequence[PublishedNotice], at_ms: int) -> CompiledPolicy:
    """A stored policy as it binds at an instant, with the notices that it stands on. Takes a moment: off the event loop."""
    policy = parse_document(document)
    return compile_policy(policy, stood_on(policy.notices, notices), profiles_of(policy), at_ms)
