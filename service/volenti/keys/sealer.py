"""Seals personal data: AES-256-GCM, bound to the place where the sealed bytes belong.

A seal opens only with the key and the context it was made with, so that a row copied from another person, or an older
entry's payload put in another's place, does not open. Sealed bytes are the nonce (12 bytes) and the ciphertext with its
tag (16 bytes). Whoever seals draws the nonce; it MUST be random and fresh for each seal.
"""

from collections.abc import Callable
from typing import Final, NewType, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from volenti.errors import LedgerDamaged
from volenti.keys.blind import labelled
from volenti.keys.keyring import Keyring

Context = NewType("Context", bytes)
"""Where sealed bytes belong, as associated data: made by the functions below and by nothing else."""

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


def seal(key: bytes, nonce: bytes, plaintext: bytes, context: Context) -> bytes:
    """Give nonce ‖ ciphertext ‖ tag. Raises ValueError unless the key has 32 bytes and the nonce 12."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 12 bytes")
    return nonce + _cipher(key).encrypt(nonce, plaintext, context)


def open_sealed(key: bytes, sealed: bytes, context: Context) -> bytes:
    """Give the plaintext back. Raises LedgerDamaged if the bytes were not sealed so: other key, other place, altered."""
    cipher = _cipher(key)
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise LedgerDamaged("sealed data is shorter than its own nonce and tag")
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except InvalidTag:
        raise LedgerDamaged("sealed data does not open: another key, another place, or altered") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError("a sealing key has 32 bytes")  # AESGCM would take 16 and be AES-128
    return AESGCM(key)


# --- contexts; ids are the 16 bytes of a UUID


def payload_context(workspace_id: bytes, log_id: int, entry_id: bytes) -> Context:
    """Give the place of an entry's payload, sealed under its holder's key."""
    return Context(labelled("volenti/seal/payload/v1", workspace_id, log_id.to_bytes(8), entry_id))


def state_context(workspace_id: bytes, holder: bytes, last_entry_id: bytes) -> Context:
    """Give the place of a holder's folded state, as of its last entry, sealed under the holder's key."""
    return Context(labelled("volenti/seal/state/v1", workspace_id, holder, last_entry_id))


def holder_key_context(workspace_id: bytes, holder: bytes) -> Context:
    """Give the place of a holder's own key, sealed under the workspace's key."""
    return Context(labelled("volenti/seal/holder-key/v1", workspace_id, holder))


def identifier_context(workspace_id: bytes, blind_index: bytes) -> Context:
    """Give the place of an identifier's value as it was given, sealed under its holder's key."""
    return Context(labelled("volenti/seal/identifier/v1", workspace_id, blind_index))


def answer_context(workspace_id: bytes, credential_id: bytes, key_mac: bytes, fingerprint: bytes) -> Context:
    """Give the place of the stored answer to an idempotent write, sealed under the workspace's key."""
    return Context(labelled("volenti/seal/answer/v1", workspace_id, credential_id, key_mac, fingerprint))


def workspace_key_context(workspace_id: bytes) -> Context:
    """Give the place of a workspace's key, sealed under the key-encryption key."""
    return Context(labelled("volenti/seal/workspace-key/v1", workspace_id))


# --- the workspace's key


class Sealer(Protocol):
    """Wraps and unwraps the keys of workspaces: here, or in a key management service that never lets its own key out.

    Unwrapping happens once a workspace at start, never once a person.
    """

    async def wrap_workspace_key(self, workspace_id: bytes, key: bytes) -> bytes:
        """Give the wrapped key. It MUST unwrap for this workspace only."""
        ...

    async def unwrap_workspace_key(self, workspace_id: bytes, wrapped: bytes) -> bytes:
        """Give the 32 bytes back. MUST raise LedgerDamaged if it was not wrapped for this workspace."""
        ...


class LocalSealer:
    """The Sealer over the key-encryption key of the key ring."""

    def __init__(self, keyring: Keyring, entropy: Callable[[int], bytes]) -> None:
        self._key = keyring.key_encryption_key
        self._entropy = entropy

    async def wrap_workspace_key(self, workspace_id: bytes, key: bytes) -> bytes:
        return seal(self._key, self._entropy(NONCE_BYTES), key, workspace_key_context(workspace_id))

    async def unwrap_workspace_key(self, workspace_id: bytes, wrapped: bytes) -> bytes:
        key = open_sealed(self._key, wrapped, workspace_key_context(workspace_id))
        if len(key) != KEY_BYTES:
            raise LedgerDamaged("a workspace's key does not have 32 bytes")
        return key
