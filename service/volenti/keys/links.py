"""Links that reach a person outside a session: opaque tokens, signed with a deterministic HMAC.

A token is for one deployment, workspace, person and act; equal links are equal bytes. It holds random ids, an instant
and keys of the policy, nothing about the person. What opens such a link proves that the link was sent, and nothing else.
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
_ASK: Final = b"\x02"
_HEAD_BYTES: Final = 1 + 4 + 2 * 16
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{80,256}")
_KEYS: Final = re.compile(rb"([a-z0-9_.-]{1,64})\x00([a-z0-9_-]{0,16})")


class ConfirmationLink(msgspec.Struct, frozen=True):
    """A page on which a person confirms the request of one entry; past `expires_at` (seconds since 1970) it does not."""

    workspace: UUID
    holder: UUID
    entry: UUID
    expires_at: int


class AskingLink(msgspec.Struct, frozen=True):
    """A page that asks a person for consent to one purpose, by one channel or (None) by all.

    Past `expires_at` (seconds since 1970) it takes no yes any more, and still a no.
    """

    workspace: UUID
    holder: UUID
    purpose: str
    channel: str | None
    expires_at: int


def sign_confirmation(keyring: Keyring, link: ConfirmationLink) -> str:
    """Give the link's token: 100 characters of base64url."""
    return _signed(keyring, _CONFIRM, link.workspace, link.holder, link.entry.bytes + link.expires_at.to_bytes(6))


def read_confirmation(keyring: Keyring, token: str) -> ConfirmationLink | None:
    """Give the link of a token that this deployment signed for this act; None for every other text, whatever is wrong with it."""
    opened = _opened(keyring, _CONFIRM, token)
    if opened is None or len(opened[2]) != 16 + 6:
        return None
    workspace, holder, rest = opened
    return ConfirmationLink(workspace, holder, UUID(bytes=rest[:16]), int.from_bytes(rest[16:]))


def sign_asking(keyring: Keyring, link: AskingLink) -> str:
    """Give the link's token: at most 176 characters of base64url for the longest purpose key of a policy."""
    keys = f"{link.purpose}\0{link.channel or ''}".encode("ascii")
    return _signed(keyring, _ASK, link.workspace, link.holder, link.expires_at.to_bytes(6) + keys)


def read_asking(keyring: Keyring, token: str) -> AskingLink | None:
    """Give the link of a token that this deployment signed for this act; None for every other text, whatever is wrong with it."""
    opened = _opened(keyring, _ASK, token)
    keys = None if opened is None else _KEYS.fullmatch(opened[2][6:])
    if opened is None or keys is None:
        return None
    workspace, holder, rest = opened
    purpose, channel = (key.decode("ascii") for key in keys.groups())
    return AskingLink(workspace, holder, purpose, channel or None, int.from_bytes(rest[:6]))


def _signed(keyring: Keyring, kind: bytes, workspace: UUID, holder: UUID, rest: bytes) -> str:
    body = b"".join((kind, bytes.fromhex(keyring.token_key_id), workspace.bytes, holder.bytes, rest))
    return base64.urlsafe_b64encode(body + _mac(keyring, body)).rstrip(b"=").decode("ascii")


def _opened(keyring: Keyring, kind: bytes, token: str) -> tuple[UUID, UUID, bytes] | None:
    """Give workspace, holder and the rest of a token of this kind; only the one spelling that was signed is one."""
    if not _SHAPE.fullmatch(token):
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error:
        return None
    body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != token:
        return None
    if not hmac.compare_digest(mac, _mac(keyring, body)) or body[:1] != kind:
        return None
    workspace, holder = (UUID(bytes=body[start : start + 16]) for start in (5, 21))
    return workspace, holder, body[_HEAD_BYTES:]


def _mac(keyring: Keyring, body: bytes) -> bytes:
    """The MAC under a key that is derived from the token key, and used for nothing else."""
    key = hmac.digest(keyring.token_key.private_bytes_raw(), labelled("volenti/link-key/v1"), "sha256")
    return hmac.digest(key, labelled("volenti/link/v1", body), "sha256")[:MAC_BYTES]
