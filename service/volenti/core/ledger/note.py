"""Signed notes of C2SP: text, an empty line, and lines of signatures. Here they are read and verified, never signed.

Whatever is wrong with a note or a key leaves this room as VerificationError, and as nothing else.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from volenti.errors import VerificationError

ED25519 = 0x01  # a signature over the text
COSIGNATURE_V1 = 0x04  # a witness's Ed25519 signature over the time and the text (tlog-cosignature)

MAX_NOTE_SIZE = 1 << 20
MAX_SIGNATURES = 100  # at least 16 have to be accepted

_KEY_ID_SIZE = 4
_TIMESTAMP_SIZE = 8
_DASH = "\N{EM DASH}"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")

_FIELD_PRIME = 2**255 - 19
_SMALL_ORDER = frozenset(
    bytes.fromhex(encoding)
    for encoding in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        # x = 0 with the sign bit: no canonical encodings, though y is below the prime
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that somebody trusts under a name: the *vkey* of C2SP. `kind` is ED25519 or COSIGNATURE_V1.

    Only a strong key can be made: the crypto library accepts keys of small order, under which one signature
    fits any text, and encodings that are not canonical, so that one key has two ids.
    """

    name: str
    kind: int
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.kind not in (ED25519, COSIGNATURE_V1):
            raise VerificationError(f"signature type {self.kind:#04x} is not supported")
        if len(self.public_key) != 32:
            raise VerificationError("an Ed25519 public key has 32 bytes")
        if int.from_bytes(self.public_key, "little") & ~(1 << 255) >= _FIELD_PRIME:
            raise VerificationError("the encoding of the public key is not canonical")
        if self.public_key in _SMALL_ORDER:
            raise VerificationError("the public key has small order: one signature would fit any text")

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.kind, self.public_key)

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(bytes([self.kind]) + self.public_key).decode()}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One line under a note, not verified. `value` is what stands after the key id: its form depends on the key."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note that was taken apart, not verified. `text` ends in a newline and is what the signatures are over."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that verified: under which key, and for a cosignature when (seconds since 1970)."""

    key: VerifierKey
    timestamp: int | None


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the four bytes that name a key in a signature line: a hint, not a fingerprint."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:_KEY_ID_SIZE]


def parse_vkey(vkey: str) -> VerifierKey:
    """Read `name+id+key`. The id must be that of the key."""
    parts = vkey.split("+", 2)  # from the left: base64 may contain a plus, a name may not
    if len(parts) != 3:
        raise VerificationError("a verifier key has three parts, joined by +")
    name, hex_id, encoded = parts
    material = decode_base64(encoded)
    key = VerifierKey(name, material[0] if material else 0, material[1:])
    if hex_id != key.key_id.hex():
        raise VerificationError("the id of the verifier key is not that of its name and key")
    return key


def signature_line(name: str, key_id: bytes, signature: bytes) -> str:
    """Return the line for a signature that was made elsewhere, with its newline."""
    _check_name(name)
    if len(key_id) != _KEY_ID_SIZE or not signature:
        raise VerificationError("a signature line needs a key id of 4 bytes and a signature")
    return f"{_DASH} {name} {b64encode(key_id + signature).decode()}\n"


def assemble(text: str, lines: Iterable[str]) -> str:
    """Return the note of a text and its signature lines, and prove that it can be read back."""
    note = f"{text}\n{''.join(lines)}"
    if parse(note).text != text:
        raise VerificationError("the text and the signature lines do not make a note")
    return note


def cosigned_text(text: str, timestamp: int) -> bytes:
    """Return what a witness signs: that at this time (seconds) it had seen the log as `text` says."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def parse(note: str | bytes) -> Note:
    """Take a note apart at its last empty line. Nothing of it may be believed before `verify`."""
    note = _utf8(note)
    if _CONTROL.search(note):
        raise VerificationError("a note has no control character but the newline")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise VerificationError("a note has an empty line before its signatures")
    if not signatures.endswith("\n"):
        raise VerificationError("a note has signature lines, and ends in a newline")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerificationError(f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def verify(note: str | bytes | Note, keys: Iterable[VerifierKey]) -> tuple[Verified, ...]:
    """Return the signatures of the known keys, all of them good.

    Lines of unknown keys are ignored. One bad signature of a known key refuses the whole note; so does a note
    that no known key has signed.
    """
    note = note if isinstance(note, Note) else parse(note)
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise VerificationError("two known keys have the same name and id")
    verified = [
        _verify_signature(note.text, signature, known[signature.name, signature.key_id])
        for signature in note.signatures
        if (signature.name, signature.key_id) in known
    ]
    if not verified:
        raise VerificationError("no known key has signed the note")
    return tuple(verified)


def decode_base64(encoded: str) -> bytes:
    """Decode the standard alphabet with padding, strictly: each value has exactly one spelling."""
    try:
        decoded = b64decode(encoded, validate=True)
    except ValueError as exc:
        raise VerificationError("not base64") from exc
    if b64encode(decoded).decode() != encoded:
        raise VerificationError("not the canonical base64 of its value")
    return decoded


def _parse_signature(line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise VerificationError("a signature line is a dash, a name and a signature")
    _, name, encoded = parts
    _check_name(name)
    blob = decode_base64(encoded)
    if len(blob) <= _KEY_ID_SIZE:
        raise VerificationError("a signature is longer than its key id")
    return Signature(name, blob[:_KEY_ID_SIZE], blob[_KEY_ID_SIZE:])


def _verify_signature(text: str, signature: Signature, key: VerifierKey) -> Verified:
    if key.kind == ED25519:
        _verify_ed25519(key, signature.value, text.encode())
        return Verified(key, None)
    timestamp = int.from_bytes(signature.value[:_TIMESTAMP_SIZE], "big")
    if timestamp >= 1 << 63:
        raise VerificationError("the time of a cosignature is out of range")
    _verify_ed25519(key, signature.value[_TIMESTAMP_SIZE:], cosigned_text(text, timestamp))
    return Verified(key, timestamp)


def _verify_ed25519(key: VerifierKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise VerificationError(f"the signature of {key.name} does not verify") from exc


def _check_name(name: str) -> None:
    if not name or "+" in name or _CONTROL.search(name) or any(character.isspace() for character in name):
        raise VerificationError("a key name is not empty and has neither a space nor a plus")
    _utf8(name)


def _utf8(text: str | bytes) -> str:
    """Return the text of bytes, or a text that has bytes: both are bounded, and without lone surrogates."""
    try:
        size = len(text if isinstance(text, bytes) else text.encode())
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeError as exc:
        raise VerificationError("not UTF-8") from exc
    if size > MAX_NOTE_SIZE:
        raise VerificationError(f"a note has at most {MAX_NOTE_SIZE} bytes")
    return text
