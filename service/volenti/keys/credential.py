"""The text of a credential: `vol_sk_<id>_<secret><checksum>`.

The id is the credential's UUID, 32 lower-case hex characters; the secret 43 base62 characters for 32 random bytes; the
checksum 6 base62 characters of the CRC-32 of all that precedes it. The checksum is no protection: it keeps a typo or a
cut-off copy away from the database. Only an HMAC of the text is stored (`volenti.keys.blind.credential_mac`).
"""

import re
import zlib
from typing import Final

PATTERN: Final = "vol_sk_[0-9a-f]{32}_[0-9A-Za-z]{49}"
"""What a secret scanner looks for, as a regular expression."""

_SHAPE: Final = re.compile(PATTERN)
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def mint(credential_id: bytes, secret: bytes) -> str:
    """Give the text of a credential: its id is the 16 bytes of a UUID, its secret 32 random bytes."""
    if len(credential_id) != 16 or len(secret) != 32:
        raise ValueError("a credential has an id of 16 bytes and a secret of 32")
    text = f"vol_sk_{credential_id.hex()}_{_base62(int.from_bytes(secret), 43)}"
    return text + _checksum(text)


def parse(text: str) -> bytes | None:
    """Give the 16 bytes of the credential's id, or None if this cannot be a credential: its shape or checksum is wrong.

    An id is no proof: the caller compares the stored MAC.
    """
    if not _SHAPE.fullmatch(text) or text[-6:] != _checksum(text[:-6]):
        return None
    return bytes.fromhex(text[7:39])


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), 6)


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits
