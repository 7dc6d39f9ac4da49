"""What is sealed opens with its key, in its place, unaltered; in no other way."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from volenti.errors import LedgerDamaged
from volenti.keys.keyring import generate, parse
from volenti.keys.sealer import (
    Context,
    LocalSealer,
    Sealer,
    answer_context,
    holder_key_context,
    identifier_context,
    open_sealed,
    payload_context,
    seal,
    state_context,
    workspace_key_context,
)

KEY, NONCE = bytes(range(32)), bytes(range(12))
ONE, TWO = b"\x01" * 16, b"\x02" * 16
MAC = b"\x03" * 32

CONTEXTS: dict[str, Context] = {
    "payload": payload_context(ONE, 1, TWO),
    "payload of another log": payload_context(ONE, 2, TWO),
    "payload of another workspace": payload_context(TWO, 1, TWO),
    "payload of another entry": payload_context(ONE, 1, ONE),
    "state": state_context(ONE, TWO, ONE),
    "state at another entry": state_context(ONE, TWO, TWO),
    "state of another holder": state_context(ONE, ONE, ONE),
    "state of another workspace": state_context(TWO, TWO, ONE),
    "holder's key": holder_key_context(ONE, TWO),
    "another holder's key": holder_key_context(ONE, ONE),
    "identifier": identifier_context(ONE, MAC),
    "identifier of another workspace": identifier_context(TWO, MAC),
    "answer": answer_context(ONE, TWO, MAC, KEY),
    "answer to another request": answer_context(ONE, TWO, MAC, MAC),
    "answer to another key": answer_context(ONE, TWO, KEY, KEY),
    "answer to another credential": answer_context(ONE, ONE, MAC, KEY),
    "workspace's key": workspace_key_context(ONE),
    "another workspace's key": workspace_key_context(TWO),
}


def test_no_two_places_have_the_same_context() -> None:
    assert len(set(CONTEXTS.values())) == len(CONTEXTS)


def test_sealed_bytes_are_nonce_ciphertext_and_tag_of_aes_256_gcm() -> None:
    context = payload_context(ONE, 7, TWO)
    sealed = seal(KEY, NONCE, b"plain", context)

    assert context == b"".join(
        (
            b"volenti/seal/payload/v1\x00",
            (b"\x00\x00\x00\x10" + ONE),
            (b"\x00\x00\x00\x08" + b"\x00\x00\x00\x00\x00\x00\x00\x07"),
            (b"\x00\x00\x00\x10" + TWO),
        )
    )
    assert sealed == NONCE + AESGCM(KEY).encrypt(NONCE, b"plain", context)
    assert len(sealed) == 12 + 5 + 16


@pytest.mark.parametrize("made_in", CONTEXTS)
def test_what_is_sealed_opens_in_its_own_place_only(made_in: str) -> None:
    sealed = seal(KEY, NONCE, b"plain", CONTEXTS[made_in])

    for name, context in CONTEXTS.items():
        if name == made_in:
            assert open_sealed(KEY, sealed, context) == b"plain"
        else:
            with pytest.raises(LedgerDamaged):
                open_sealed(KEY, sealed, context)


@given(st.binary(max_size=64), st.data())
def test_no_flipped_bit_and_no_cut_opens(plaintext: bytes, data: st.DataObject) -> None:
    sealed = seal(KEY, NONCE, plaintext, CONTEXTS["state"])
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << (bit % 8)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]

    assert open_sealed(KEY, sealed, CONTEXTS["state"]) == plaintext
    for wrong in (bytes(flipped), cut, sealed + b"\x00"):
        with pytest.raises(LedgerDamaged):
            open_sealed(KEY, wrong, CONTEXTS["state"])


def test_another_key_opens_nothing() -> None:
    with pytest.raises(LedgerDamaged):
        open_sealed(bytes(32), seal(KEY, NONCE, b"plain", CONTEXTS["state"]), CONTEXTS["state"])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: seal(KEY[:16], NONCE, b"", CONTEXTS["state"]),
        lambda: seal(KEY, NONCE + b"\x00", b"", CONTEXTS["state"]),
        lambda: open_sealed(KEY[:24], bytes(40), CONTEXTS["state"]),
    ],
)
def test_a_short_key_or_a_wrong_nonce_is_a_programming_error(wrong: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError, match="bytes"):
        wrong()


async def test_a_workspaces_key_unwraps_for_its_workspace_under_its_key_ring_only() -> None:
    drawn = iter(range(256))
    keyring = parse(generate(lambda count: bytes(next(drawn) for _ in range(count))))
    sealer: Sealer = LocalSealer(keyring, lambda count: b"\x09" * count)
    wrapped = await sealer.wrap_workspace_key(ONE, KEY)

    assert KEY not in wrapped
    assert await sealer.unwrap_workspace_key(ONE, wrapped) == KEY
    with pytest.raises(LedgerDamaged):
        await sealer.unwrap_workspace_key(TWO, wrapped)
    with pytest.raises(LedgerDamaged):
        await sealer.unwrap_workspace_key(ONE, b"")
    short = await sealer.wrap_workspace_key(ONE, KEY[:16])
    with pytest.raises(LedgerDamaged):
        await sealer.unwrap_workspace_key(ONE, short)
