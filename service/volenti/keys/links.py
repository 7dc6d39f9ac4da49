"""Links that reach a person outside a session: opaque tokens, signed with a deterministic HMAC.

A token is for one deployment, workspace, person and act; equal links are equal bytes. It holds random ids and an
instant, nothing about the person. What opens such a link proves that the link was sent, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import Final
from uuid import UUID

import msgspec

from volenti.keys.blind import labelled
from volenti.keys.keyring import Keyring

MAC_BYTES: Final = 16
_CONFIRM: Final = b"\x01"
_BODY_BYTES: Final = 1 + 4 + 3 * 16 + 6
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{100}")


class ConfirmationLink(msgspec.Struct, frozen=True):
    """A page on which a person confirms the request of one entry; past `expires_at` (seconds since 1970) it does not."""

    workspace: UUID
    holder: UUID
    entry: UUID
    expires_at: int


def sign_confirmation(keyring: Keyring, link: ConfirmationLink) -> str:
    """Give the link's token: 100 characters of base64url."""
    body = b"".join(
        (
            _CONFIRM,
            bytes.fromhex(keyring.token_key_id),
            link.workspace.bytes,
            link.holder.bytes,
            link.entry.bytes,
            link.expires_at.to_bytes(6),
        )
    )
    return base64.urlsafe_b64encode(body + _mac(keyring, body)).decode("ascii")


def read_confirmation(keyring: Keyring, token: str) -> ConfirmationLink | None:
    """Give the link of a token that this deployment signed for this act; None for every other text, whatever is wrong with it."""
    if not _SHAPE.fullmatch(token):
        return None
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    body, mac = raw[:_BODY_BYTES], raw[_BODY_BYTES:]
    if not hmac.compare_digest(mac, _mac(keyring, body)) or body[:1] != _CONFIRM:
        return None
    workspace, holder, entry = (UUID(bytes=body[start : start + 16]) for start in (5, 21, 37))
    return ConfirmationLink(workspace, holder, entry, int.from_bytes(body[53:]))


def _mac(keyring: Keyring, body: bytes) -> bytes:
    """The MAC under a key that is derived from the token key, and used for nothing else."""
    key = hmac.digest(keyring.token_key.private_bytes_raw(), labelled("volenti/link-key/v1"), "sha256")
    return hmac.digest(key, labelled("volenti/link/v1", body), "sha256")[:MAC_BYTES]
