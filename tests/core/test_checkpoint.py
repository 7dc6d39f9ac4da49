"""A checkpoint says one thing about one log, in one spelling, and the log itself must have signed it."""

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.ledger.checkpoint import TreeHead, parse, parse_decimal, render, verify, verify_all
from volenti.core.ledger.merkle import EMPTY_ROOT, TreeSize
from volenti.core.ledger.note import (
    COSIGNATURE_V1,
    ED25519,
    VerifierKey,
    assemble,
    cosigned_text,
    parse_vkey,
    signature_line,
)
from volenti.errors import VerificationError

VECTORS = Path(__file__).parents[1] / "vectors"
FROZEN: dict[str, Any] = json.loads((VECTORS / "c2sp.json").read_text(encoding="utf-8"))
LOG, WITNESS = parse_vkey(FROZEN["log"]["vkey"]), parse_vkey(FROZEN["witness"]["vkey"])
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(FROZEN["log"]["seed"]))
COSIGNED = FROZEN["proof_of_leaf_5"]["text"].partition("\n\n")[2]
ROOT_OF_8 = bytes.fromhex("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
HEAD = TreeHead("volenti.example/acme", TreeSize(8), ROOT_OF_8)


def signed(text: str, key: VerifierKey = LOG) -> str:
    return assemble(text, [signature_line(key.name, key.key_id, LOG_KEY.sign(text.encode()))])


def test_the_checkpoint_of_the_vectors_is_rendered_signed_and_verified() -> None:
    note = signed(render(HEAD))

    assert FROZEN["proof_of_leaf_5"]["checkpoint_by_the_log_alone_sha256"] == sha256(note.encode()).hexdigest()
    assert verify(note, [LOG]) == HEAD
    assert verify(COSIGNED, [LOG, WITNESS]) == HEAD


def test_the_empty_log_has_a_checkpoint() -> None:
    head = TreeHead("volenti.example/acme", TreeSize(0), EMPTY_ROOT)

    assert FROZEN["empty_checkpoint"] == signed(render(head))
    assert head == verify(FROZEN["empty_checkpoint"], [LOG])


def test_what_a_witness_is_asked_to_add_is_the_consistency_proof_of_the_vectors() -> None:
    classic = json.loads((VECTORS / "rfc6962.json").read_text())
    (hashes,) = [vector["proof"] for vector in classic["consistency"] if (vector["old"], vector["new"]) == (4, 8)]
    lines = [b64encode(bytes.fromhex(hash_)).decode() for hash_ in hashes]

    assert FROZEN["add_checkpoint_4_to_8"] == "\n".join(["old 4", *lines, "", ""])


def test_the_times_of_witnesses_come_with_the_head() -> None:
    head, verified = verify_all(COSIGNED, [LOG, WITNESS])

    assert head == HEAD
    assert [None, FROZEN["proof_of_leaf_5"]["cosigned_at"]] == [signature.timestamp for signature in verified]


def test_a_witness_alone_does_not_stand_in_for_the_log() -> None:
    with pytest.raises(VerificationError, match="not signed by the log"):
        verify(COSIGNED, [WITNESS])


def test_a_witness_that_bears_the_name_of_the_log_is_not_the_log() -> None:
    namesake = VerifierKey(HEAD.origin, COSIGNATURE_V1, LOG.public_key)
    value = (7).to_bytes(8, "big") + LOG_KEY.sign(cosigned_text(render(HEAD), 7))
    note = assemble(render(HEAD), [signature_line(namesake.name, namesake.key_id, value)])

    with pytest.raises(VerificationError, match="not signed by the log"):
        verify(note, [namesake])


def test_a_log_cannot_speak_for_another() -> None:
    with pytest.raises(VerificationError, match="not signed by the log"):
        verify(
            signed(render(HEAD), VerifierKey("volenti.example/other", ED25519, LOG.public_key)),
            [VerifierKey("volenti.example/other", ED25519, LOG.public_key)],
        )


def test_extension_lines_are_signed_and_mean_nothing() -> None:
    assert verify(signed(render(HEAD) + "an extension\n"), [LOG]) == HEAD


B64 = "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a\n8\n",
        f"a\n8\n{B64}",
        f"\n8\n{B64}\n",
        f"a\n\n{B64}\n",
        f"a\n8\n{B64}\n\n",
        f"a\n8\n{B64}\n\nmore\n",
        f"a\n08\n{B64}\n",
        f"a\n+8\n{B64}\n",
        f"a\n-8\n{B64}\n",
        f"a\n8 \n{B64}\n",
        f"a\n8_0\n{B64}\n",
        f"a\n\u0668\n{B64}\n",
        f"a\n{1 << 63}\n{B64}\n",
        f"a\n{'9' * 5000}\n{B64}\n",
        f"a\n8\n{B64[:-1]}\n",
        f"a\n8\n{B64[:-4]}\n",
        f"a\n8\n{B64}=\n",
        f"a\n8\n{B64[:-2]}h=\n",
        f"a\n0\n{B64}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        parse(text)


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1),
    st.integers(1, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
)
def test_every_tree_head_reads_back(origin: str, size: int, root: bytes) -> None:
    head = TreeHead(origin, TreeSize(size), root)

    assert head == parse(render(head))


@pytest.mark.parametrize(
    "head",
    [
        TreeHead("", TreeSize(8), ROOT_OF_8),
        TreeHead("a\n9", TreeSize(8), ROOT_OF_8),
        TreeHead("a", TreeSize(-1), ROOT_OF_8),
        TreeHead("a", TreeSize(1 << 63), ROOT_OF_8),
        TreeHead("a", TreeSize(8), ROOT_OF_8[1:]),
        TreeHead("a", TreeSize(0), ROOT_OF_8),
    ],
)
def test_a_tree_head_that_would_not_read_back_is_not_rendered(head: TreeHead) -> None:
    with pytest.raises(VerificationError):
        render(head)


def test_a_decimal_has_one_spelling() -> None:
    assert [parse_decimal(text) for text in ("0", "10", "9223372036854775807")] == [0, 10, (1 << 63) - 1]
