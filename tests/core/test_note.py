"""Signed notes: what the specification accepts verifies, and everything else is refused in one way only."""

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.ledger.note import (
    COSIGNATURE_V1,
    ED25519,
    VerifierKey,
    assemble,
    cosigned_text,
    decode_base64,
    key_id,
    parse,
    parse_vkey,
    signature_line,
    verify,
)
from volenti.errors import VerificationError

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "c2sp.json").read_text(encoding="utf-8"))
OFFICIAL = FROZEN["official_note"]
CHECKPOINT = FROZEN["proof_of_leaf_5"]["text"].partition("\n\n")[2]
TEXT = "somebody says\n\nthis\n"

LOG, WITNESS = parse_vkey(FROZEN["log"]["vkey"]), parse_vkey(FROZEN["witness"]["vkey"])
LOG_KEY, WITNESS_KEY = (
    Ed25519PrivateKey.from_private_bytes(bytes.fromhex(FROZEN[who]["seed"])) for who in ("log", "witness")
)
STRANGER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = VerifierKey("stranger.example", ED25519, STRANGER_KEY.public_key().public_bytes_raw())


def line(key: VerifierKey, private: Ed25519PrivateKey, text: str) -> str:
    return signature_line(key.name, key.key_id, private.sign(text.encode()))


def cosignature(text: str, timestamp: int) -> str:
    value = timestamp.to_bytes(8, "big") + WITNESS_KEY.sign(cosigned_text(text, timestamp))
    return signature_line(WITNESS.name, WITNESS.key_id, value)


BY_LOG = line(LOG, LOG_KEY, TEXT)
BY_STRANGER = line(STRANGER, STRANGER_KEY, TEXT)
BAD_BY_LOG = line(LOG, STRANGER_KEY, TEXT)


def test_the_official_note_verifies() -> None:
    key = parse_vkey(OFFICIAL["vkey"])

    (verified,) = verify(OFFICIAL["note"], [key])

    assert (key, None) == (verified.key, verified.timestamp)
    assert OFFICIAL["vkey"] == key.vkey


@pytest.mark.parametrize(("who", "kind"), [("log", ED25519), ("witness", COSIGNATURE_V1)])
def test_a_verifier_key_is_written_as_the_vectors_write_it(who: str, kind: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(FROZEN[who]["seed"]))
    public = private.public_key().public_bytes_raw()
    name = FROZEN[who]["vkey"].partition("+")[0]

    assert FROZEN[who]["public_key"] == public.hex()
    assert FROZEN[who]["vkey"] == VerifierKey(name, kind, public).vkey
    assert VerifierKey(name, kind, public) == parse_vkey(FROZEN[who]["vkey"])


def test_log_and_witness_of_the_vectors_verify_and_sign_the_same_bytes_again() -> None:
    note = parse(CHECKPOINT)
    at = FROZEN["proof_of_leaf_5"]["cosigned_at"]

    assert [(LOG, None), (WITNESS, at)] == [(v.key, v.timestamp) for v in verify(note, [LOG, WITNESS])]
    assert assemble(note.text, [line(LOG, LOG_KEY, note.text), cosignature(note.text, at)]) == CHECKPOINT


def test_the_text_ends_at_the_last_empty_line() -> None:
    note = parse(assemble(TEXT, [BY_LOG]))

    assert note.text == TEXT
    assert len(verify(note, [LOG])) == 1


def test_bytes_and_text_are_read_alike() -> None:
    note = assemble(TEXT, [BY_LOG])

    assert parse(note) == parse(note.encode())


def test_lines_of_unknown_keys_are_ignored() -> None:
    same_name = VerifierKey(LOG.name, ED25519, STRANGER.public_key)
    lines = [BY_STRANGER, line(same_name, STRANGER_KEY, "another text\n"), BY_LOG]

    assert [verified.key for verified in verify(assemble(TEXT, lines), [LOG])] == [LOG]


def test_sixteen_signatures_are_accepted() -> None:
    assert len(verify(assemble(TEXT, [*[BY_STRANGER] * 15, BY_LOG]), [LOG])) == 1


def test_a_bad_signature_of_a_known_key_refuses_the_note_beside_a_good_one() -> None:
    for lines in ([BAD_BY_LOG, BY_LOG], [BY_LOG, BAD_BY_LOG], [BAD_BY_LOG, BY_STRANGER]):
        with pytest.raises(VerificationError, match="does not verify"):
            verify(assemble(TEXT, lines), [LOG, STRANGER])


@pytest.mark.parametrize("keys", [[], [LOG]])
def test_a_note_that_no_known_key_signed_is_refused(keys: list[VerifierKey]) -> None:
    with pytest.raises(VerificationError, match="no known key"):
        verify(assemble(TEXT, [BY_STRANGER]), keys)


def test_a_signature_does_not_fit_another_text() -> None:
    with pytest.raises(VerificationError):
        verify(assemble(TEXT + "more\n", [BY_LOG]), [LOG])


def test_a_cosignature_is_no_signature_of_a_log_and_the_reverse() -> None:
    as_log = VerifierKey("w.example", ED25519, WITNESS.public_key)
    as_witness = VerifierKey("w.example", COSIGNATURE_V1, WITNESS.public_key)
    value = (7).to_bytes(8, "big") + WITNESS_KEY.sign(cosigned_text(TEXT, 7))
    plain = WITNESS_KEY.sign(TEXT.encode())

    assert as_log.key_id != as_witness.key_id
    for key, signature in ((as_log, value), (as_log, value[8:]), (as_witness, plain), (as_witness, bytes(8) + plain)):
        with pytest.raises(VerificationError):
            verify(assemble(TEXT, [signature_line(key.name, key.key_id, signature)]), [key])


def test_the_time_of_a_cosignature_is_signed() -> None:
    value = (8).to_bytes(8, "big") + WITNESS_KEY.sign(cosigned_text(TEXT, 7))

    with pytest.raises(VerificationError):
        verify(assemble(TEXT, [signature_line(WITNESS.name, WITNESS.key_id, value)]), [WITNESS])


def test_a_time_beyond_63_bits_is_refused_even_if_signed() -> None:
    with pytest.raises(VerificationError, match="out of range"):
        verify(assemble(TEXT, [cosignature(TEXT, 1 << 63)]), [WITNESS])


def test_two_known_keys_with_one_name_and_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VerifierKey, "key_id", property(lambda key: bytes(4)))
    twins = [VerifierKey("one.example", ED25519, key.public_key) for key in (LOG, STRANGER)]

    with pytest.raises(VerificationError, match="same name and id"):
        verify(assemble(TEXT, [BY_LOG]), twins)


GOOD = assemble(TEXT, [BY_LOG])
SIGNATURE = BY_LOG.split(" ")[2].strip()


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        TEXT,
        TEXT + "\n",
        BY_LOG,
        "\n" + BY_LOG,
        TEXT + BY_LOG,
        GOOD[:-1],
        GOOD + "\n",
        GOOD + "more",
        GOOD + "more\n",
        GOOD.replace("says", "sa\tys"),
        GOOD.replace("says", "says\r"),
        GOOD.replace("says", "says\x00"),
        GOOD.replace("says", "says\ud800"),
        GOOD.encode().replace(b"says", b"says\xff"),
        GOOD.encode("utf-16"),
        GOOD.replace("\u2014", "-"),
        GOOD.replace("\u2014 ", "\u2014"),
        GOOD.replace("\u2014 ", "\u2014  "),
        GOOD.replace("\u2014 ", "\u2014 +"),
        GOOD.replace("\u2014 ", "\u2014 a\u2003b"),
        GOOD.replace(" " + SIGNATURE, "  " + SIGNATURE),
        GOOD.replace(SIGNATURE, ""),
        GOOD.replace(SIGNATURE, SIGNATURE + " "),
        GOOD.replace(SIGNATURE, SIGNATURE[:-1]),
        GOOD.replace(SIGNATURE, SIGNATURE + "="),
        GOOD.replace(SIGNATURE, SIGNATURE.replace("/", "_").replace("+", "-")[:-4] + "-_=="),
        GOOD.replace(SIGNATURE, b64encode(LOG.key_id).decode()),
        GOOD + BY_STRANGER * 100,
        "a" * (1 << 20) + "\n\n" + BY_LOG,
    ],
)
def test_what_is_no_note_is_refused(note: str | bytes) -> None:
    with pytest.raises(VerificationError):
        parse(note)


@pytest.mark.parametrize("cut", [0, 1, 8, 63, 65, 72, 200])
@pytest.mark.parametrize("key", [LOG, WITNESS])
def test_a_signature_of_another_length_is_refused(key: VerifierKey, cut: int) -> None:
    blob = bytes([1] * cut)
    note = f"{TEXT}\n\u2014 {key.name} {b64encode(key.key_id + blob).decode()}\n"

    with pytest.raises(VerificationError):
        verify(note, [key])


@given(st.binary(max_size=200))
def test_no_bytes_make_anything_but_a_verification_error(data: bytes) -> None:
    for reading in (
        lambda: verify(data, [LOG]),
        lambda: verify(TEXT.encode() + b"\n" + data, [LOG]),
        lambda: parse_vkey(data.decode("latin-1")),
        lambda: parse_vkey(data.decode("utf-8", "surrogateescape")),
        lambda: parse_vkey(LOG.vkey[:30] + data.decode("latin-1")),
    ):
        with pytest.raises(VerificationError):
            reading()


@given(st.integers(0, len(CHECKPOINT.encode()) - 1), st.integers(1, 255))
def test_no_flipped_byte_of_a_checkpoint_verifies_under_all_its_keys(position: int, flip: int) -> None:
    data = bytearray(CHECKPOINT.encode())
    data[position] ^= flip
    try:
        verified = verify(bytes(data), [LOG, WITNESS])
    except VerificationError:
        return

    # A changed name or key id makes a line unknown; it never makes it say something else.
    assert len(verified) < 2
    assert parse(CHECKPOINT).text == parse(bytes(data)).text


def unchecked_vkey(name: str, kind: int, public_key: bytes) -> str:
    material = b64encode(bytes([kind]) + public_key).decode()
    return f"{name}+{key_id(name, kind, public_key).hex()}+{material}"


@pytest.mark.parametrize("encoding", FROZEN["weak_public_keys"])
@pytest.mark.parametrize("kind", [ED25519, COSIGNATURE_V1])
def test_a_public_key_of_small_order_cannot_be_pinned(encoding: str, kind: int) -> None:
    with pytest.raises(VerificationError):
        parse_vkey(unchecked_vkey("weak.example", kind, bytes.fromhex(encoding)))


@pytest.mark.parametrize("y", [2**255 - 19, 2**255 - 18, 2**255 - 16, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_an_encoding_that_is_not_canonical_cannot_be_pinned(y: int, sign: int) -> None:
    with pytest.raises(VerificationError):
        VerifierKey("weak.example", ED25519, (y | sign << 255).to_bytes(32, "little"))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000",
        LOG.vkey.replace("805f22f2", "805f22f3"),
        LOG.vkey.replace("805f22f2", "805F22F2"),
        LOG.vkey.replace("805f22f2", "2158437106"),
        LOG.vkey.replace("volenti", "volenti "),
        LOG.vkey.removeprefix("volenti.example/acme"),
        LOG.vkey[:-4],
        LOG.vkey + "=",
        LOG.vkey + "\n",
        unchecked_vkey("a.example", 2, LOG.public_key),
        unchecked_vkey("a.example", ED25519, LOG.public_key[:31]),
        "a+00000000+",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(VerificationError):
        parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\x01b", "a\ud800"])
def test_a_name_with_a_space_or_a_plus_signs_nothing(name: str) -> None:
    with pytest.raises(VerificationError):
        signature_line(name, bytes(4), bytes(64))
    with pytest.raises(VerificationError):
        VerifierKey(name, ED25519, LOG.public_key)


@pytest.mark.parametrize(
    ("text", "lines"), [("no newline", [BY_LOG]), (TEXT, []), (TEXT, ["a line\n"]), (TEXT, [BY_LOG, "\n", BY_LOG])]
)
def test_what_would_not_read_back_is_not_assembled(text: str, lines: list[str]) -> None:
    with pytest.raises(VerificationError):
        assemble(text, lines)


def test_a_signature_line_needs_a_key_id_and_a_signature() -> None:
    for identifier, signature in ((bytes(3), bytes(64)), (bytes(4), b"")):
        with pytest.raises(VerificationError):
            signature_line("a.example", identifier, signature)


@given(st.binary(max_size=60))
def test_base64_has_one_spelling(raw: bytes) -> None:
    encoded = b64encode(raw).decode()

    assert raw == decode_base64(encoded)


@pytest.mark.parametrize("encoded", ["QQ", "QQ=", "QR==", "Q=Q=", "QQ==QQ==", " QQ==", "QQ==\n", "-_==", "\u00e9"])
def test_any_other_spelling_is_refused(encoded: str) -> None:
    assert b64decode("QR==") == b"A"  # the library accepts padding bits that say nothing
    with pytest.raises(VerificationError):
        decode_base64(encoded)
