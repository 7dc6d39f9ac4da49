"""The portable receipt: a tlog-proof binds one leaf to a signed root, or it is refused."""

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import LeafIndex, TreeSize, leaf_hash
from volenti.core.ledger.note import parse_vkey
from volenti.core.ledger.proof import Proof, parse, render, verify
from volenti.errors import VerificationError

VECTORS = Path(__file__).parents[1] / "vectors"
FROZEN: dict[str, Any] = json.loads((VECTORS / "c2sp.json").read_text(encoding="utf-8"))
CLASSIC: dict[str, Any] = json.loads((VECTORS / "rfc6962.json").read_text())
TEXT: str = FROZEN["proof_of_leaf_5"]["text"]
CHECKPOINT = TEXT.partition("\n\n")[2]
LEAF_5 = leaf_hash(bytes.fromhex(CLASSIC["leaves"][5]))
PATH = tuple(
    bytes.fromhex(h) for h in next(v["proof"] for v in CLASSIC["inclusion"] if (v["index"], v["size"]) == (5, 8))
)
KEYS = [parse_vkey(FROZEN[who]["vkey"]) for who in ("log", "witness")]


def test_the_proof_of_the_vectors_is_rendered_and_verified() -> None:
    head = TreeHead("volenti.example/acme", TreeSize(8), bytes.fromhex(CLASSIC["roots"][8]))

    assert render(Proof(LeafIndex(5), PATH, CHECKPOINT)) == TEXT
    assert FROZEN["proof_of_leaf_5"]["sha256"] == sha256(TEXT.encode()).hexdigest()
    assert head == verify(TEXT, LEAF_5, KEYS)


def test_the_checkpoint_is_kept_verbatim() -> None:
    assert parse(TEXT).checkpoint == CHECKPOINT


@given(
    st.integers(0, (1 << 63) - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.none() | st.binary(max_size=100),
)
def test_every_proof_reads_back(index: int, path: list[bytes], extra: bytes | None) -> None:
    proof = Proof(LeafIndex(index), tuple(path), CHECKPOINT, extra)

    assert proof == parse(render(proof))


def test_extra_data_changes_nothing_of_the_verdict() -> None:
    assert verify(TEXT, LEAF_5, KEYS) == verify(TEXT.replace("index", "extra QUJD\nindex"), LEAF_5, KEYS)


@pytest.mark.parametrize("index", [i for i in range(8) if i != 5])
def test_a_proof_for_another_index_is_refused(index: int) -> None:
    with pytest.raises(VerificationError):
        verify(TEXT.replace("index 5", f"index {index}"), LEAF_5, KEYS)


def test_a_proof_of_another_leaf_is_refused() -> None:
    for leaf in (leaf_hash(b"another"), b"", LEAF_5[:31]):
        with pytest.raises(VerificationError):
            verify(TEXT, leaf, KEYS)


def test_a_proof_under_an_unknown_or_a_witness_key_alone_is_refused() -> None:
    for keys in ([], KEYS[1:]):
        with pytest.raises(VerificationError):
            verify(TEXT, LEAF_5, keys)


FIRST = b64encode(PATH[0]).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[1:],
        TEXT.replace("@v1", "@v2"),
        TEXT.replace("@v1\n", "@v1\r\n"),
        TEXT.replace("index 5\n", ""),
        TEXT.replace("index 5", "index 05"),
        TEXT.replace("index 5", "index  5"),
        TEXT.replace("index 5", "index -1"),
        TEXT.replace("index 5", "index"),
        TEXT.replace("index 5", "index 5\nextra QUJD"),
        TEXT.replace("index 5", "extra QUJD\nextra QUJD\nindex 5"),
        TEXT.replace("index 5", "extra QUI\nindex 5"),
        TEXT.replace(FIRST, FIRST[:-4]),
        TEXT.replace(FIRST, FIRST + " "),
        TEXT.replace(FIRST + "\n", ""),
        TEXT.replace(FIRST, FIRST + "\n" + FIRST),
        TEXT.replace(FIRST, "\n".join([FIRST] * 62)),
        TEXT.replace("\n\nvolenti", "\nvolenti"),
        TEXT.replace("\n\nvolenti", "\n\n\nvolenti"),
        TEXT.partition("\n\n")[0] + "\n\n",
        TEXT.partition("\n\n\u2014")[0] + "\n",
        TEXT[:-1],
        TEXT + "\n",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        verify(text, LEAF_5, KEYS)


@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_no_changed_character_moves_the_leaf(position: int, other: str) -> None:
    text = TEXT[:position] + other + TEXT[position + 1 :]
    try:
        head = verify(text, LEAF_5, KEYS)
    except VerificationError:
        return

    assert verify(TEXT, LEAF_5, KEYS) == head
    assert (LeafIndex(5), PATH) == (parse(text).index, parse(text).path)


@pytest.mark.parametrize(
    "proof",
    [
        Proof(LeafIndex(-1), PATH, CHECKPOINT),
        Proof(LeafIndex(5), (*PATH, b""), CHECKPOINT),
        Proof(LeafIndex(5), PATH, "no checkpoint"),
        Proof(LeafIndex(5), PATH * 22, CHECKPOINT),
    ],
)
def test_a_proof_that_would_not_read_back_is_not_rendered(proof: Proof) -> None:
    with pytest.raises(VerificationError):
        render(proof)
