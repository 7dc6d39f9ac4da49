"""The leaf of the ledger: the canonical bytes of an entry, and back.

A leaf names nobody. The data subject stands in it as a tag that differs in each entry, the content as a commitment;
what is personal is sealed beside the ledger and can be destroyed while every proof still verifies.
"""

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from unicodedata import is_normalized

from volenti.errors import Invalid

VERSION = "volenti.entry/1"
MAX_LEAF_SIZE = 16384
MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 32

TAG_SIZE = 16
HASH_SIZE = 32

_TAG_LABEL = b"volenti/data-subject-tag/v1\x00"
_COMMITMENT_LABEL = b"volenti/payload/v1\x00"
# Within the profile sorting by code point is sorting by UTF-16, and json escapes what RFC 8785 escapes.
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORD = re.compile(r"[a-z0-9_.-]{1,64}")
_REQUIRED = frozenset({"v", "id", "at", "k", "p", "c"})


@dataclass(frozen=True, slots=True)
class Leaf:
    """One entry as the ledger shows it. A Leaf that exists can be encoded; Invalid says what is wrong with it.

    id: a lower-case hyphenated UUID, version 7 where the service makes it. at_ms: when it was recorded, in
    milliseconds since 1970, UTC. kind, purposes: words of the catalogue, never free text. notice_hash: SHA-256 of
    the notice (in `policy.published` of the document), 32 bytes. tag: 16 bytes, None if the entry has no holder.
    commitment: to the payload, 32 bytes.
    """

    id: str
    at_ms: int
    kind: str
    purposes: tuple[str, ...]
    notice_hash: bytes | None
    tag: bytes | None
    commitment: bytes

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise Invalid("the id of an entry is a lower-case hyphenated UUID")
        if not 0 <= self.at_ms <= MAX_INTEGER:
            raise Invalid("the time of an entry is out of range")
        if not all(_WORD.fullmatch(word) for word in (self.kind, *self.purposes)):
            raise Invalid("kind and purposes of an entry are short words: a-z 0-9 _ . -")
        if self.notice_hash is not None and len(self.notice_hash) != HASH_SIZE:
            raise Invalid("a notice hash has 32 bytes")
        if self.tag is not None and len(self.tag) != TAG_SIZE:
            raise Invalid("a tag has 16 bytes")
        if len(self.commitment) != HASH_SIZE:
            raise Invalid("a commitment has 32 bytes")


def encode(leaf: Leaf) -> bytes:
    """Return the bytes that are hashed and stored."""
    members: dict[str, object] = {
        "v": VERSION,
        "id": leaf.id,
        "at": leaf.at_ms,
        "k": leaf.kind,
        "p": leaf.purposes,
        "c": _base64url(leaf.commitment),
    }
    if leaf.notice_hash is not None:
        members["n"] = leaf.notice_hash.hex()
    if leaf.tag is not None:
        members["s"] = _base64url(leaf.tag)
    encoded = _JSON.encode(members).encode()  # what a Leaf holds is in the profile
    if len(encoded) > MAX_LEAF_SIZE:
        raise Invalid(f"a leaf has at most {MAX_LEAF_SIZE} bytes")
    return encoded


def decode(encoded: bytes) -> Leaf:
    """Return the entry of a leaf. Bytes that `encode` would not have made are Invalid, however close they come."""
    if len(encoded) > MAX_LEAF_SIZE:
        raise Invalid(f"a leaf has at most {MAX_LEAF_SIZE} bytes")
    try:
        members = json.loads(encoded.decode())
    except (ValueError, RecursionError) as exc:
        raise Invalid("a leaf is JSON") from exc
    if not isinstance(members, dict) or members.get("v") != VERSION:
        raise Invalid("the version of the leaf is not known")
    if not members.keys() >= _REQUIRED:
        raise Invalid("the leaf lacks a member")
    leaf = Leaf(
        id=_text(members["id"]),
        at_ms=_integer(members["at"]),
        kind=_text(members["k"]),
        purposes=_texts(members["p"]),
        notice_hash=_from_hex(members["n"]) if "n" in members else None,
        tag=_from_base64url(members["s"]) if "s" in members else None,
        commitment=_from_base64url(members["c"]),
    )
    if encode(leaf) != encoded:  # a member too many or twice, white space, escapes, padding bits
        raise Invalid("the leaf is not canonical")
    return leaf


def canonical(value: object) -> bytes:
    """Return the RFC 8785 form of a value in our profile; outside it is Invalid.

    The profile: strings in NFC without lone surrogates, integers within ±(2^53-1), booleans, arrays, objects with
    ASCII keys. No null and no floats: there implementations differ.
    """
    _check(value, MAX_DEPTH)
    return _JSON.encode(value).encode()


def tag(key: bytes, entry_id: str) -> bytes:
    """Return how the holder of `key` (32 bytes) appears in this one entry: 16 bytes.

    With the key all entries of a person can be found in the log; without it no two of them can be linked.
    """
    if len(key) != HASH_SIZE:
        raise Invalid("the key of a holder has 32 bytes")
    return hmac.digest(key, _TAG_LABEL + id_bytes(entry_id), "sha256")[:TAG_SIZE]


def commitment(salt: bytes, payload: bytes) -> bytes:
    """Return what binds an entry to its payload without telling it. `salt`: 32 random bytes for each entry."""
    if len(salt) != HASH_SIZE:
        raise Invalid("the salt of a commitment has 32 bytes")
    return hmac.digest(salt, _COMMITMENT_LABEL + payload, "sha256")


def notice_hash(content: bytes) -> bytes:
    """Return the hash by which an entry names the notice that was shown."""
    return sha256(content).digest()


def id_text(raw: bytes) -> str:
    """Write the 16 bytes of a UUID as text."""
    if len(raw) != 16:
        raise Invalid("a UUID has 16 bytes")
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str) -> bytes:
    """Read the text form of a UUID, lower-case and hyphenated, to its 16 bytes."""
    if not _ID.fullmatch(text):
        raise Invalid("the id of an entry is a lower-case hyphenated UUID")
    return bytes.fromhex(text.replace("-", ""))


def _check(value: object, depth: int) -> None:
    """Raise Invalid unless the value is in the profile. No message quotes it: it may be personal."""
    if depth < 0:
        raise Invalid(f"values nest at most {MAX_DEPTH} deep")
    match value:
        case bool():
            pass
        case str():
            _check_text(value)
        case int():
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise Invalid("an integer is beyond 2^53-1")
        case list() | tuple():
            for member in value:
                _check(member, depth - 1)
        case dict():
            for key, member in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise Invalid("the keys of objects are ASCII")
                _check(member, depth - 1)
        case _:
            raise Invalid(f"a value of type {type(value).__name__} is outside the canonical profile")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise Invalid("a string has a lone surrogate") from exc
    if not is_normalized("NFC", text):
        raise Invalid("a string is not in NFC")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Invalid("a member of the leaf is not a string")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid("a member of the leaf is not an integer")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Invalid("a member of the leaf is not an array")
    return tuple(_text(member) for member in value)


def _from_hex(value: object) -> bytes:
    try:
        return bytes.fromhex(_text(value))
    except ValueError as exc:
        raise Invalid("a member of the leaf is not hexadecimal") from exc


def _from_base64url(value: object) -> bytes:
    text = _text(value)
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as exc:
        raise Invalid("a member of the leaf is not base64url") from exc


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
