"""The four keys of a deployment, and the file that holds them.

The file is one JSON document, `volenti.keys/1`. A key's id may be left out when the file is made by other means; where
it stands it must fit its key. The signing keys may stand as PKCS#8 PEM (`pkcs8`) in place of their 32 bytes (`seed`).
No error of this module holds anything of what it read.
"""

import base64
import binascii
import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from volenti.errors import Conflict, Invalid, NotFound, Unavailable

VERSION: Final = "volenti.keys/1"
_LONGEST_FILE: Final = 64 * 1024


@dataclass(frozen=True, eq=False)
class Keyring:
    """The keys in use: one signs checkpoints, one tokens, one wraps the workspaces' keys, one makes blind indexes.

    The four are different keys. An id is 8 hex characters and tells nothing about its key.
    """

    log_key: Ed25519PrivateKey = field(repr=False)
    token_key: Ed25519PrivateKey = field(repr=False)
    key_encryption_key: bytes = field(repr=False)
    pepper: bytes = field(repr=False)

    @cached_property
    def log_key_id(self) -> str:
        return _public_id(self.log_key)

    @cached_property
    def token_key_id(self) -> str:
        return _public_id(self.token_key)

    @cached_property
    def key_encryption_key_id(self) -> str:
        return _secret_id(self.key_encryption_key, "key-encryption-key")

    @cached_property
    def pepper_id(self) -> str:
        return _secret_id(self.pepper, "pepper")

    def fingerprint(self) -> bytes:
        """Give 32 bytes that change when any of the four keys does, and from which no key can be told.

        Stored in the database, which refuses to be served with other keys.
        """
        parts = (
            self.log_key.public_key().public_bytes_raw(),
            self.token_key.public_key().public_bytes_raw(),
            _secret_check(self.key_encryption_key, "key-encryption-key"),
            _secret_check(self.pepper, "pepper"),
        )
        return hashlib.sha256(b"volenti/key-fingerprint/v1\x00" + b"".join(parts)).digest()


def generate(entropy: Callable[[int], bytes]) -> bytes:
    """Give the text of a new key file; entropy gives as many random bytes as it is asked for."""
    log_key, token_key = (Ed25519PrivateKey.from_private_bytes(entropy(32)) for _ in range(2))
    keyring = Keyring(log_key, token_key, entropy(32), entropy(32))
    document = _Document(
        v=VERSION,
        log_signing_key=_SigningKey(id=keyring.log_key_id, seed=_base64(log_key.private_bytes_raw())),
        token_signing_key=_SigningKey(id=keyring.token_key_id, seed=_base64(token_key.private_bytes_raw())),
        key_encryption_key=_SecretKey(id=keyring.key_encryption_key_id, key=_base64(keyring.key_encryption_key)),
        pepper=_SecretKey(id=keyring.pepper_id, key=_base64(keyring.pepper)),
    )
    text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    parse(text)  # a broken source of entropy is found here, not after the first entry
    return text


def parse(data: bytes) -> Keyring:
    """Give the keys of a key file's text. Raises Invalid with what is wrong, never with what stands there."""
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # its own text may quote the document
        raise Invalid(f"the key file is not a complete {VERSION} document") from None
    if document.v != VERSION:
        raise Invalid(f"the key file is not of version {VERSION}")
    keyring = Keyring(
        log_key=_signing_key(document.log_signing_key, "log_signing_key"),
        token_key=_signing_key(document.token_signing_key, "token_signing_key"),
        key_encryption_key=_32_bytes(document.key_encryption_key.key, "key_encryption_key"),
        pepper=_32_bytes(document.pepper.key, "pepper"),
    )
    _refuse_wrong_ids(document, keyring)
    _refuse_equal_keys(keyring)
    return keyring


def create_file(path: Path, entropy: Callable[[int], bytes]) -> Keyring:
    """Make a key file that only its owner may read, durably, and give its keys.

    Raises Conflict if anything is at the path: a key file is never overwritten. NotFound if its folder is missing.
    """
    text = generate(entropy)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} exists already; a key file is never overwritten") from None
    except FileNotFoundError:
        raise NotFound(f"the folder of {path} does not exist; make it first") from None
    except OSError as exc:
        raise Unavailable(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _fsync_folder(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)  # ours, and incomplete
        raise Unavailable(f"{path} cannot be written: {exc.strerror}") from exc
    return parse(text)


def read_file(path: Path) -> Keyring:
    """Give the keys of a key file. Raises Invalid if others may read it, NotFound if it is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place must not hang us
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Invalid(f"{path} is not a file")
            widest = _widest_mode(owner=status.st_uid, reader=os.geteuid())
            if status.st_mode & 0o077 & ~widest:
                raise Invalid(f"others may read or change the keys in {path}; run: chmod {widest:o} {path}")
            data = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no key file at {path}") from None
    except OSError as exc:
        raise Unavailable(f"the key file {path} cannot be read: {exc.strerror}") from exc
    if len(data) > _LONGEST_FILE:
        raise Invalid(f"{path} is too long for a key file")
    return parse(data)


def _widest_mode(*, owner: int, reader: int) -> int:
    """Give the most that a key file's mode may allow: reading and writing for its owner, and for nobody else.

    With one exception: a secret that Kubernetes mounts belongs to root, and a service that does not run as root reads
    it through the pod's group. PostgreSQL judges its own key file by the same rule.
    """
    return 0o640 if owner == 0 and reader != 0 else 0o600


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the document


class _SigningKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: str | None = None
    seed: str | None = None
    pkcs8: str | None = None


class _SecretKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    key: str
    id: str | None = None


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: str
    log_signing_key: _SigningKey
    token_signing_key: _SigningKey
    key_encryption_key: _SecretKey
    pepper: _SecretKey


def _signing_key(given: _SigningKey, member: str) -> Ed25519PrivateKey:
    if (given.seed is None) == (given.pkcs8 is None):
        raise Invalid(f"the key file's {member} has either a seed or pkcs8")
    if given.pkcs8 is None:
        return Ed25519PrivateKey.from_private_bytes(_32_bytes(given.seed or "", member))
    try:
        key = load_pem_private_key(given.pkcs8.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(f"the key file's {member} is not an unencrypted PKCS#8 PEM key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(f"the key file's {member} is not an Ed25519 key")
    return key


def _32_bytes(text: str, member: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"the key file's {member} is not base64") from None
    if len(raw) != 32:
        raise Invalid(f"the key file's {member} does not have 32 bytes")
    return raw


def _refuse_wrong_ids(document: _Document, keyring: Keyring) -> None:
    for member, given, right in (
        ("log_signing_key", document.log_signing_key.id, keyring.log_key_id),
        ("token_signing_key", document.token_signing_key.id, keyring.token_key_id),
        ("key_encryption_key", document.key_encryption_key.id, keyring.key_encryption_key_id),
        ("pepper", document.pepper.id, keyring.pepper_id),
    ):
        if given is not None and not hmac.compare_digest(given.encode(), right.encode()):
            raise Invalid(f"the id of the key file's {member} belongs to another key")


def _refuse_equal_keys(keyring: Keyring) -> None:
    seeds = (keyring.log_key.private_bytes_raw(), keyring.token_key.private_bytes_raw())
    if len({*seeds, keyring.key_encryption_key, keyring.pepper}) != 4:
        raise Invalid("the key file holds the same key twice; each has one use only")


# --- ids


def _public_id(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:8]


def _secret_id(secret: bytes, use: str) -> str:
    return hmac.digest(secret, f"volenti/key-id/v1/{use}".encode(), "sha256").hex()[:8]


def _secret_check(secret: bytes, use: str) -> bytes:
    return hmac.digest(secret, f"volenti/key-fingerprint/v1/{use}".encode(), "sha256")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
