"""Signs checkpoints, and names the key that signs as C2SP's signed notes do."""

from typing import Protocol

from volenti.core.ledger.note import ED25519, VerifierKey
from volenti.keys.keyring import Keyring


class Signer(Protocol):
    """Signs with one Ed25519 key: here, or in a key management service that never lets the key out."""

    async def sign(self, text: bytes) -> bytes:
        """Give the 64 bytes of a pure Ed25519 signature over the text as it is; it MUST NOT be hashed before."""
        ...

    def vkey(self, origin: str) -> str:
        """Give the verifier key of the log of this origin. MUST raise VerificationError for what cannot be a name."""
        ...


class LocalSigner:
    """The Signer over the log key of the key ring."""

    def __init__(self, keyring: Keyring) -> None:
        self._key = keyring.log_key

    async def sign(self, text: bytes) -> bytes:
        return self._key.sign(text)

    def vkey(self, origin: str) -> str:
        return VerifierKey(origin, ED25519, self._key.public_key().public_bytes_raw()).vkey
