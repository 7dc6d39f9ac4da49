"""A leaf has one form: the bytes are RFC 8785's, every Leaf reads back, and other bytes are refused."""

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import msgspec
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from volenti.core.entry import (
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_LEAF_SIZE,
    Leaf,
    canonical,
    commitment,
    decode,
    encode,
    id_bytes,
    id_text,
    notice_hash,
    tag,
)
from volenti.core.ledger.merkle import leaf_hash
from volenti.errors import Invalid

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "entry.json").read_text(encoding="utf-8"))
KEY, SALT = bytes.fromhex(FROZEN["key"]), bytes.fromhex(FROZEN["salt"])
LEAF = Leaf(
    id=FROZEN["id"],
    at_ms=FROZEN["at_ms"],
    kind=FROZEN["kind"],
    purposes=tuple(FROZEN["purposes"]),
    notice_hash=notice_hash(FROZEN["notice"].encode()),
    tag=tag(KEY, FROZEN["id"]),
    commitment=commitment(SALT, canonical(FROZEN["payload"])),
)
BYTES: bytes = FROZEN["leaf"].encode()

words = st.from_regex(r"[a-z0-9_.-]{1,64}", fullmatch=True)
leaves = st.builds(
    Leaf,
    id=st.uuids().map(str),
    at_ms=st.integers(0, MAX_INTEGER),
    kind=words,
    purposes=st.lists(words, max_size=5).map(tuple),
    notice_hash=st.none() | st.binary(min_size=32, max_size=32),
    tag=st.none() | st.binary(min_size=16, max_size=16),
    commitment=st.binary(min_size=32, max_size=32),
)
texts = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: normalize("NFC", text))
ascii_texts = st.text(st.characters(max_codepoint=127))
scalars = texts | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.booleans()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(ascii_texts, inner), max_leaves=20)


def test_the_frozen_entry_has_its_bytes_and_its_hash() -> None:
    assert FROZEN["payload_canonical"].encode() == canonical(FROZEN["payload"])
    assert LEAF.tag is not None
    assert FROZEN["tag"] == LEAF.tag.hex()
    assert FROZEN["commitment"] == LEAF.commitment.hex()
    assert encode(LEAF) == BYTES
    assert FROZEN["length"] == len(BYTES)
    assert FROZEN["leaf_hash"] == leaf_hash(BYTES).hex()
    assert decode(BYTES) == LEAF


def test_a_notice_is_named_by_its_sha_256() -> None:
    assert notice_hash(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_leaf_may_be_just_as_large_as_the_bound() -> None:
    bare = len(encode(Leaf(LEAF.id, 0, "k", (), None, None, bytes(32))))
    words = ["a" * 64] * ((MAX_LEAF_SIZE - bare) // 67)
    left = MAX_LEAF_SIZE - len(encode(Leaf(LEAF.id, 0, "k", tuple(words), None, None, bytes(32))))
    largest = Leaf(LEAF.id, 0, "k" + "k" * left, tuple(words), None, None, bytes(32))
    assert len(encode(largest)) == MAX_LEAF_SIZE
    assert decode(encode(largest)) == largest


@given(leaves)
def test_every_leaf_reads_back_and_is_rfc_8785(leaf: Leaf) -> None:
    encoded = encode(leaf)

    assert leaf == decode(encoded)
    assert encoded == rfc8785.dumps(json.loads(encoded))


@given(values)
@example("\u2028\u2029\x7f\x80\uff5e\U0001f600/<>&'\"\\\b\f\n\r\t\x00\x1f")
@example({"": "", "a": 1, "A": True, "aa": [], "\x7f": {}, "\\": -0})
def test_canonical_is_rfc_8785_and_what_msgspec_sorts(value: Any) -> None:
    assert rfc8785.dumps(value) == canonical(value)
    assert msgspec.json.Encoder(order="sorted").encode(value) == canonical(value)
    assert value == json.loads(canonical(value))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.0,
        float("nan"),
        float("inf"),
        b"bytes",
        {"a": None},
        [1, [2.5]],
        {1: "a"},
        {True: "a"},
        {None: "a"},
        {"\u00e9": "a"},
        {"\U0001f600": 1, "\ufb33": 2},
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        "\ud800",
        "a\udfff",
        "e\u0301",
        "\u212b",
        ["e\u0301"],
        {"a"},
        nested(MAX_DEPTH + 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_implementations_write_differently_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical(value)


def test_nesting_without_end_is_refused() -> None:
    for depth in (1_000, 100_000):
        with pytest.raises(Invalid):
            canonical(nested(depth))


def test_the_bounds_of_the_profile_are_inside() -> None:
    for value in (MAX_INTEGER, -MAX_INTEGER, nested(MAX_DEPTH), "\u00e9", (1, 2)):
        assert rfc8785.dumps(value) == canonical(value)


def test_no_refusal_quotes_the_value() -> None:
    for value in ("secret-e\u0301", {"secret-\u00e9": 1}, ["secret", 1.5]):
        with pytest.raises(Invalid) as refusal:
            canonical(value)
        assert "secret" not in str(refusal.value)


def with_member(name: str, text: str) -> bytes:
    """The frozen leaf with one member's JSON text replaced."""
    members = json.loads(BYTES)
    members[name] = "@"
    return json.dumps(members, separators=(",", ":"), sort_keys=True).replace('"@"', text).encode()


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"{}",
        b"[]",
        b"1",
        b"\xff",
        b"\xef\xbb\xbf" + BYTES,
        BYTES + b"\n",
        b" " + BYTES,
        BYTES[:-1],
        BYTES.replace(b":", b": ", 1),
        BYTES.replace(b"newsletter", rb"newslette\u0072"),
        BYTES.replace(b'{"at"', b'{"at":1,"at"'),
        BYTES.replace(b'"v":"volenti.entry/1"', b'"v":"volenti.entry/1","v":"volenti.entry/1"'),
        BYTES.replace(b"entry/1", b"entry/2"),
        BYTES.replace(b',"v":"volenti.entry/1"', b""),
        BYTES.replace(b'"v":', b'"u":1,"v":'),
        BYTES.replace(b',"p":["newsletter"]', b""),
        BYTES.replace(b'"at":1790000000123,', b""),
        json.dumps(dict(reversed(json.loads(BYTES).items())), separators=(",", ":")).encode(),
        with_member("v", "1"),
        with_member("at", "1790000000123.0"),
        with_member("at", "1.790000000123e12"),
        with_member("at", '"1790000000123"'),
        with_member("at", "true"),
        with_member("at", "-1"),
        with_member("at", "-0"),
        with_member("at", str(MAX_INTEGER + 1)),
        with_member("at", "9" * 5000),
        with_member("at", "NaN"),
        with_member("at", "null"),
        with_member("n", "null"),
        with_member("n", '"' + "AB" * 32 + '"'),
        with_member("n", '"' + "ab" * 31 + '"'),
        with_member("n", '"' + "ab " * 32 + '"'),
        with_member("s", "null"),
        with_member("s", '"392YiHKUnP36etN03KVbHR"'),
        with_member("s", '"392YiHKUnP36etN03KVbHQ=="'),
        with_member("s", '"392YiHKUnP36etN03KVb"'),
        with_member("s", '"392YiHKUnP36etN03KVbHQ\u00e9"'),
        with_member("c", '"IUaHLktbhNy9pJEQ/rRzWmouCRy7dSBb5N9HJAXXktg"'),
        with_member("c", '""'),
        with_member("id", '"0197C0DE-0000-7000-8000-000000000001"'),
        with_member("id", '"0197c0de000070008000000000000001"'),
        with_member("id", '"{0197c0de-0000-7000-8000-000000000001}"'),
        with_member("id", "7"),
        with_member("k", '"consent granted"'),
        with_member("k", '""'),
        with_member("k", '"consent.granted\\n"'),
        with_member("p", '"newsletter"'),
        with_member("p", "[1]"),
        with_member("p", '[""]'),
        with_member("p", '["somebody@example.com"]'),
        with_member("p", '["' + "a" * 65 + '"]'),
        with_member("p", "[" * 8000 + "]" * 8000),
        with_member("p", "[" + ",".join(['"newsletter"'] * 1300) + "]"),
        BYTES + b" " * MAX_LEAF_SIZE,
    ],
    ids=lambda encoded: f"{len(encoded)} bytes",
)
def test_bytes_that_encode_would_not_have_made_are_refused(encoded: bytes) -> None:
    with pytest.raises(Invalid):
        decode(encoded)


def test_a_leaf_that_is_nearly_too_large_still_reads_back() -> None:
    room = MAX_LEAF_SIZE - len(encode(Leaf(LEAF.id, 0, "k", (), None, None, bytes(32))))
    words = ("a" * 13,) * (room // 16)
    largest = Leaf(LEAF.id, 0, "k", words, None, None, bytes(32))

    assert largest == decode(encode(largest))
    with pytest.raises(Invalid):
        encode(Leaf(LEAF.id, 0, "k", (*words, "a" * 13), None, None, bytes(32)))


@given(leaves, st.data())
def test_a_flipped_byte_is_refused_or_changes_the_hash(leaf: Leaf, data: st.DataObject) -> None:
    encoded = encode(leaf)
    changed = bytearray(encoded)
    changed[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(changed))
    except Invalid:
        return

    assert leaf != read
    assert leaf_hash(encoded) != leaf_hash(bytes(changed))


@given(st.binary(max_size=300))
def test_no_bytes_make_anything_but_a_refusal(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": LEAF.id.upper()},
        {"id": LEAF.id + "\n"},
        {"at_ms": -1},
        {"at_ms": MAX_INTEGER + 1},
        {"kind": ""},
        {"kind": "Consent"},
        {"purposes": ("news letter",)},
        {"purposes": ("\u00e9",)},
        {"notice_hash": bytes(31)},
        {"tag": bytes(15)},
        {"tag": b""},
        {"commitment": bytes(33)},
    ],
)
def test_a_leaf_that_would_not_read_back_cannot_be_made(changes: dict[str, Any]) -> None:
    members = {name: getattr(LEAF, name) for name in Leaf.__dataclass_fields__}

    with pytest.raises(Invalid):
        Leaf(**members | changes)


def test_absent_members_are_left_out_and_purposes_are_always_there() -> None:
    members = json.loads(encode(Leaf(LEAF.id, 0, "workspace.created", (), None, None, bytes(32))))

    assert {"v", "id", "at", "k", "p", "c"} == set(members)
    assert members["p"] == []


def test_a_tag_differs_in_each_entry_of_one_person() -> None:
    other = "0197c0de-0000-7000-8000-000000000002"

    assert 16 == len(tag(KEY, LEAF.id)) == len(tag(KEY, other))
    assert tag(KEY, LEAF.id) != tag(KEY, other)


def test_a_commitment_opens_only_with_its_salt_and_payload() -> None:
    payload = canonical(FROZEN["payload"])

    assert commitment(SALT, payload) != commitment(SALT[::-1], payload)
    assert commitment(SALT, payload) != commitment(SALT, payload + b" ")


def test_keys_and_salts_of_another_length_are_refused() -> None:
    for wrong in (b"", bytes(31), bytes(64)):
        with pytest.raises(Invalid):
            tag(wrong, LEAF.id)
        with pytest.raises(Invalid):
            commitment(wrong, b"{}")


@given(st.uuids())
def test_an_id_has_one_text_form(identifier: Any) -> None:
    assert str(identifier) == id_text(identifier.bytes)
    assert identifier.bytes == id_bytes(str(identifier))


def test_an_id_is_written_in_its_five_groups() -> None:
    assert id_text(bytes(range(16))) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert id_bytes("00010203-0405-0607-0809-0a0b0c0d0e0f") == bytes(range(16))


@pytest.mark.parametrize(
    "text",
    ["", LEAF.id.upper(), LEAF.id.replace("-", ""), LEAF.id + "0", "\u0660" + LEAF.id[1:]],
    ids=["empty", "upper case", "no hyphens", "longer", "another digit"],
)
def test_any_other_text_is_no_id(text: str) -> None:
    with pytest.raises(Invalid):
        id_bytes(text)


def test_an_id_has_16_bytes() -> None:
    for raw in (b"", bytes(15), b64decode("AAAA")):
        with pytest.raises(Invalid):
            id_text(raw)


# --- what an auditor reads ----------------------------------------------------------------------------------------

MEMBERS = {name: getattr(LEAF, name) for name in Leaf.__dataclass_fields__}
REFUSALS: list[tuple[Callable[[], object], str]] = [
    (lambda: Leaf(**MEMBERS | {"id": "x"}), "the id of an entry is a lower-case hyphenated UUID"),
    (lambda: Leaf(**MEMBERS | {"at_ms": -1}), "the time of an entry is out of range"),
    (lambda: Leaf(**MEMBERS | {"kind": ""}), "kind and purposes of an entry are short words: a-z 0-9 _ . -"),
    (lambda: Leaf(**MEMBERS | {"notice_hash": b""}), "a notice hash has 32 bytes"),
    (lambda: Leaf(**MEMBERS | {"tag": b""}), "a tag has 16 bytes"),
    (lambda: Leaf(**MEMBERS | {"commitment": b""}), "a commitment has 32 bytes"),
    (lambda: encode(Leaf(**MEMBERS | {"purposes": ("a" * 64,) * 300})), "a leaf has at most 16384 bytes"),
    (lambda: decode(bytes(MAX_LEAF_SIZE + 1)), "a leaf has at most 16384 bytes"),
    (lambda: decode(b"{"), "a leaf is JSON"),
    (lambda: decode(b"[]"), "the version of the leaf is not known"),
    (lambda: decode(b'{"v":"volenti.entry/1"}'), "the leaf lacks a member"),
    (lambda: decode(BYTES + b" "), "the leaf is not canonical"),
    (lambda: decode(with_member("k", "1")), "a member of the leaf is not a string"),
    (lambda: decode(with_member("at", '"1"')), "a member of the leaf is not an integer"),
    (lambda: decode(with_member("at", "true")), "a member of the leaf is not an integer"),
    (lambda: decode(with_member("p", '"a"')), "a member of the leaf is not an array"),
    (lambda: decode(with_member("n", '"x"')), "a member of the leaf is not hexadecimal"),
    (lambda: decode(with_member("s", '"A"')), "a member of the leaf is not base64url"),
    (lambda: tag(b"", LEAF.id), "the key of a holder has 32 bytes"),
    (lambda: commitment(b"", b""), "the salt of a commitment has 32 bytes"),
    (lambda: id_text(b""), "a UUID has 16 bytes"),
    (lambda: id_bytes(""), "the id of an entry is a lower-case hyphenated UUID"),
    (lambda: canonical(nested(MAX_DEPTH + 1)), "values nest at most 32 deep"),
    (lambda: canonical(MAX_INTEGER + 1), "an integer is beyond 2^53-1"),
    (lambda: canonical({1: 2}), "the keys of objects are ASCII"),
    (lambda: canonical({"é": 2}), "the keys of objects are ASCII"),
    (lambda: canonical(1.5), "a value of type float is outside the canonical profile"),
    (lambda: canonical("\ud800"), "a string has a lone surrogate"),
    (lambda: canonical("e\u0301"), "a string is not in NFC"),
]


@pytest.mark.parametrize(("refused", "sentence"), REFUSALS, ids=[sentence for _, sentence in REFUSALS])
def test_each_refusal_says_what_is_wrong(refused: Callable[[], object], sentence: str) -> None:
    with pytest.raises(Invalid) as refusal:
        refused()
    assert str(refusal.value) == sentence
