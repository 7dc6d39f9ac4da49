"""The signed tree head: the text of a C2SP tlog-checkpoint, and who must have signed it."""

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from volenti.core.ledger import note
from volenti.core.ledger.merkle import EMPTY_ROOT, HASH_SIZE, TreeSize
from volenti.core.ledger.note import ED25519, Note, VerifierKey
from volenti.errors import VerificationError

MAX_SIZE = (1 << 63) - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a log says of itself: its name for good, how many leaves, and their root."""

    origin: str
    size: TreeSize
    root: bytes


def render(head: TreeHead) -> str:
    """Return the text that is signed. It holds no time: cosignatures do."""
    text = f"{head.origin}\n{head.size}\n{b64encode(head.root).decode()}\n"
    if parse(text) != head:
        raise VerificationError("the tree head cannot be written as a checkpoint")
    return text


def parse(text: str) -> TreeHead:
    """Read the text of a checkpoint, not verified. Extension lines may follow; they are signed but mean nothing here."""
    *lines, last = text.split("\n")
    if last or len(lines) < 3 or not all(lines):
        raise VerificationError("a checkpoint has at least three lines, none of them empty")
    origin, size_text, root_text = lines[:3]
    size, root = parse_decimal(size_text), note.decode_base64(root_text)
    if len(root) != HASH_SIZE:
        raise VerificationError("a root hash has 32 bytes")
    if size == 0 and root != EMPTY_ROOT:
        raise VerificationError("the root of an empty tree is the hash of nothing")
    return TreeHead(origin, TreeSize(size), root)


def verify(checkpoint: str | bytes | Note, keys: Iterable[VerifierKey]) -> TreeHead:
    """Return the tree head that the log itself has signed.

    `keys` may hold witnesses too; their word does not stand in for the log's. The key's name must be the origin,
    so that one log cannot speak for another. Raises VerificationError.
    """
    head, _ = verify_all(checkpoint, keys)
    return head


def verify_all(
    checkpoint: str | bytes | Note, keys: Iterable[VerifierKey]
) -> tuple[TreeHead, tuple[note.Verified, ...]]:
    """Return what `verify` does, and all signatures of known keys with it: witnesses tell the time."""
    parsed = checkpoint if isinstance(checkpoint, Note) else note.parse(checkpoint)
    verified = note.verify(parsed, keys)
    head = parse(parsed.text)
    if not any(signature.key.kind == ED25519 and signature.key.name == head.origin for signature in verified):
        raise VerificationError("the checkpoint is not signed by the log that it names")
    return head, verified


def parse_decimal(text: str) -> int:
    """Read a number that has one spelling: ASCII digits, no leading zero, below 2^63."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise VerificationError("not a decimal number")
    return int(text)
