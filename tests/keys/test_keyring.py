"""The key file: complete, private, never overwritten, and silent about what it holds."""

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from volenti.errors import Conflict, Invalid, NotFound, Unavailable
from volenti.keys import keyring as module
from volenti.keys.keyring import Keyring, create_file, generate, parse, read_file

MEMBERS = ("log_signing_key", "token_signing_key", "key_encryption_key", "pepper")
Change = Callable[[dict[str, Any]], None]


def counting() -> Callable[[int], bytes]:
    """Give a source of bytes that counts: 00..1f, 20..3f, ..."""
    drawn = iter(range(256))
    return lambda count: bytes(next(drawn) for _ in range(count))


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(generate(counting()))
    return loaded


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return text.decode()


def test_a_generated_file_holds_the_four_keys_that_were_drawn() -> None:
    keyring = parse(generate(counting()))

    assert keyring.log_key.private_bytes_raw() == bytes(range(0x20))
    assert keyring.token_key.private_bytes_raw() == bytes(range(0x20, 0x40))
    assert keyring.key_encryption_key == bytes(range(0x40, 0x60))
    assert keyring.pepper == bytes(range(0x60, 0x80))


def test_ids_and_fingerprint_are_frozen() -> None:
    keyring = parse(generate(counting()))

    assert (keyring.log_key_id, keyring.token_key_id) == ("56475aa7", "24f6ed6a")
    assert (keyring.key_encryption_key_id, keyring.pepper_id) == ("459b98b8", "6d2dab15")
    assert keyring.fingerprint().hex() == "ffcb0f1d34bad27e2a7514cfee35d87f21248441e16d28e84d64409371daaa7a"


@pytest.mark.parametrize("member", range(4))
def test_the_fingerprint_changes_with_each_key(member: int) -> None:
    base = parse(generate(counting()))
    seeds = [base.log_key.private_bytes_raw(), base.token_key.private_bytes_raw(), base.key_encryption_key, base.pepper]
    seeds[member] = bytes([seeds[member][0] ^ 1]) + seeds[member][1:]
    log_key, token_key = (Ed25519PrivateKey.from_private_bytes(seed) for seed in seeds[:2])
    other = Keyring(log_key, token_key, seeds[2], seeds[3])

    assert len(base.fingerprint()) == 32
    assert other.fingerprint() != base.fingerprint()


def test_a_key_ring_in_a_log_line_shows_no_key() -> None:
    keyring = parse(generate(counting()))

    assert repr(keyring) == "Keyring()"


def test_signing_keys_may_stand_as_pkcs8_and_ids_may_be_left_out() -> None:
    given = document()
    given["log_signing_key"] = {"pkcs8": pem(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))}
    for member in MEMBERS[1:]:
        del given[member]["id"]

    assert parse(json.dumps(given).encode()).fingerprint() == parse(generate(counting())).fingerprint()


def put(member: str, **values: Any) -> Change:
    return lambda given: given.__setitem__(member, values)


def drop(member: str) -> Change:
    return lambda given: given.pop(member)


WRONG: dict[str, Change] = {
    "another version": lambda given: given.update(v="volenti.keys/2"),
    "an unknown member": lambda given: given.update(more=1),
    "an unknown member of a key": lambda given: given["pepper"].update(more=1),
    "a seed and pkcs8": lambda given: given["log_signing_key"].update(pkcs8=pem(Ed25519PrivateKey.generate())),
    "neither": put("token_signing_key", id="00000000"),
    "not base64": put("pepper", key="!" * 44),
    "not ASCII": put("pepper", key="é" * 44),
    "31 bytes": put("key_encryption_key", key=base64.b64encode(bytes(range(31))).decode()),
    "a seed of 64 bytes": put("log_signing_key", seed=base64.b64encode(bytes(range(64))).decode()),
    "another curve": put("log_signing_key", pkcs8=pem(generate_private_key(SECP256R1()))),
    "an encrypted key": put(
        "log_signing_key", pkcs8=pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))
    ),
    "no PEM": put("log_signing_key", pkcs8="secret"),
    "a number": put("pepper", key=1),
    "the id of another key": lambda given: given["pepper"].update(id=given["key_encryption_key"]["id"]),
    "an id that is not ASCII": lambda given: given["pepper"].update(id="é"),
    "the same secret twice": lambda given: given["pepper"].update(key=given["key_encryption_key"]["key"], id=None),
    "the same signing key twice": lambda given: given.update(token_signing_key=given["log_signing_key"]),
    "a seed that is a secret too": lambda given: given["pepper"].update(key=given["log_signing_key"]["seed"], id=None),
} | {f"no {member}": drop(member) for member in ("v", *MEMBERS)}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_and_the_error_holds_nothing_of_it(change: Change) -> None:
    given = document()
    change(given)
    with pytest.raises(Invalid) as refused:
        parse(json.dumps(given).encode())

    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    for text in ("secret", *(value for member in MEMBERS for value in (given.get(member) or {}).values())):
        assert not isinstance(text, str) or text not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"{", b"-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse(data)


@pytest.mark.parametrize("cut", range(0, 900, 50))
def test_a_file_that_was_cut_off_is_refused(cut: int) -> None:
    text = generate(counting())
    with pytest.raises(Invalid):
        parse(text[: min(cut, len(text) - 3)])


def test_entropy_that_repeats_itself_makes_no_file() -> None:
    with pytest.raises(Invalid):
        generate(lambda count: b"\x07" * count)


# --- the file


def test_a_new_file_is_its_owners_alone_and_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old = os.umask(0)
    try:
        made = create_file(path, counting())
    finally:
        os.umask(old)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_file(path).fingerprint() == made.fingerprint()


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"kept")
    with pytest.raises(Conflict):
        create_file(path, counting())

    assert path.read_bytes() == b"kept"


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Conflict):
        create_file(path, counting())

    assert not (tmp_path / "elsewhere.json").exists()


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        create_file(tmp_path / "none" / "keys.json", counting())


def test_a_full_disk_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable):
        create_file(tmp_path / "keys.json", counting())

    assert list(tmp_path.iterdir()) == []


def test_file_and_folder_reach_the_disk_before_the_keys_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    create_file(tmp_path / "keys.json", counting())

    assert synced == [False, True]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o602, 0o611])
def test_a_file_that_others_may_read_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    create_file(path, counting())
    path.chmod(mode)
    with pytest.raises(Invalid, match=f"chmod 600 {path}"):
        read_file(path)


@pytest.mark.parametrize(("owner", "reader", "widest"), [(0, 0, 0o600), (7, 7, 0o600), (7, 0, 0o600), (0, 7, 0o640)])
def test_only_roots_file_read_by_another_may_be_open_to_the_group(owner: int, reader: int, widest: int) -> None:
    assert module._widest_mode(owner=owner, reader=reader) == widest


def test_a_mounted_secret_is_a_link_and_is_followed(tmp_path: Path) -> None:
    made = create_file(tmp_path / "real.json", counting())
    (tmp_path / "keys.json").symlink_to(tmp_path / "real.json")

    assert read_file(tmp_path / "keys.json").fingerprint() == made.fingerprint()


def test_a_missing_file_a_folder_a_pipe_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "huge").touch(0o600)
    (tmp_path / "huge").write_bytes(b" " * 70_000)

    with pytest.raises(NotFound):
        read_file(tmp_path / "none.json")
    with pytest.raises((Invalid, Unavailable)):
        read_file(tmp_path)
    with pytest.raises(Invalid, match="not a file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(Invalid, match="too long"):
        read_file(tmp_path / "huge")
