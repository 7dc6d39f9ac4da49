"""The collaborators of every flow, built once."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from volenti.core.policy.canonical import parse_document
from volenti.core.policy.compile import CompiledPolicy, compile_policy
from volenti.flows.clock import Clock, Entropy, uuid7
from volenti.flows.log_decisions import DecisionLog
from volenti.keys.keyring import Keyring
from volenti.keys.sealer import Sealer
from volenti.keys.signer import Signer
from volenti.settings import Settings
from volenti.store import policies, workspaces
from volenti.store.anchor import AnchorStore
from volenti.store.appender import Appender
from volenti.store.database import Connection, Database
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
    _policies: dict[tuple[UUID, int], CompiledPolicy] = field(default_factory=dict, repr=False)

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

    async def policy(self, workspace_id: UUID, version: int) -> CompiledPolicy:
        """A published policy, compiled. Versions never change, so a compiled one stays right for ever."""
        if (workspace_id, version) not in self._policies:
            async with self.database.workspace("volenti_app", workspace_id) as connection:
                self._policies[workspace_id, version] = await compiled(connection, workspace_id, version)
        return self._policies[workspace_id, version]


async def compiled(connection: Connection, workspace_id: UUID, version: int) -> CompiledPolicy:
    """Read and compile one published policy with the notices published up to then."""
    stored = await policies.version(connection, workspace_id, version)
    return compile_policy(
        parse_document(stored.document), await policies.notices(connection, workspace_id, up_to=version)
    )
