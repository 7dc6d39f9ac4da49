"""The portable receipt: a C2SP tlog-proof, which is an inclusion proof and the checkpoint that it leads to."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from volenti.core.ledger import checkpoint, merkle, note
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import HASH_SIZE, LeafIndex
from volenti.core.ledger.note import VerifierKey
from volenti.errors import VerificationError

SUFFIX = ".tlog-proof"
MAX_PATH = 63  # a tree of fewer than 2^63 leaves is no deeper

_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it was read, not verified. `checkpoint` is the signed note, verbatim; nobody has signed `extra`."""

    index: LeafIndex
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None


def render(proof: Proof) -> str:
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {b64encode(proof.extra).decode()}")
    lines.append(f"index {proof.index}")
    lines += (b64encode(hash_).decode() for hash_ in proof.path)
    text = "\n".join(lines) + "\n\n" + proof.checkpoint
    if parse(text) != proof:
        raise VerificationError("the proof cannot be written as text")
    return text


def parse(text: str) -> Proof:
    """Read a proof. The checkpoint inside is read too, so that a proof without one is refused here."""
    head, separator, signed = text.partition("\n\n")
    header, *lines = head.split("\n")
    if not separator or header != _HEADER or not lines:
        raise VerificationError("not a tlog-proof")
    extra = None
    if lines[0].startswith("extra "):
        extra = note.decode_base64(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise VerificationError("a tlog-proof names the index of its entry")
    index = checkpoint.parse_decimal(lines[0].removeprefix("index "))
    path = tuple(note.decode_base64(line) for line in lines[1:])
    if len(path) > MAX_PATH or any(len(hash_) != HASH_SIZE for hash_ in path):
        raise VerificationError(f"the path of a tlog-proof is at most {MAX_PATH} hashes of 32 bytes")
    checkpoint.parse(note.parse(signed).text)
    return Proof(LeafIndex(index), path, signed, extra)


def verify(text: str, leaf_hash: bytes, keys: Iterable[VerifierKey]) -> TreeHead:
    """Return the tree head, signed by the log, in which the leaf stands. Raises VerificationError.

    `leaf_hash` is computed from the leaf that the holder has, never taken from the proof. Where witnesses count,
    `trust.verify` judges the checkpoint and `check` the path.
    """
    proof = parse(text)
    head = checkpoint.verify(proof.checkpoint, keys)
    check(proof, leaf_hash, head)
    return head


def check(proof: Proof, leaf_hash: bytes, head: TreeHead) -> None:
    """Raise VerificationError unless the path leads from the leaf to the root of a head that is trusted already."""
    if not merkle.verify_inclusion(proof.index, head.size, leaf_hash, proof.path, head.root):
        raise VerificationError("the leaf is not in the tree at this index")
