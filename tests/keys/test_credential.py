"""A credential's text: found by scanners, and refused without a look into the database when a character is wrong."""

import random
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.keys.credential import PATTERN, mint, parse

ID = bytes(range(16))
TEXT = mint(ID, bytes(range(32)))
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_the_text_is_frozen() -> None:
    assert TEXT == "vol_sk_000102030405060708090a0b0c0d0e0f_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3QT0fH"


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_what_is_minted_is_parsed_and_found_by_a_scanner(credential_id: bytes, secret: bytes) -> None:
    text = mint(credential_id, secret)
    digits = text[40:83]
    number = 0
    for digit in digits:
        number = number * 62 + BASE62.index(digit)

    assert len(text) == 89
    assert parse(text) == credential_id
    assert number.to_bytes(32) == secret
    assert re.findall(PATTERN, f'key = "{text}"; x') == [text]


@pytest.mark.parametrize("position", range(len(TEXT)))
def test_one_wrong_character_anywhere_is_noticed(position: int) -> None:
    for character in "0aZz_-\u0661":
        typo = TEXT[:position] + character + TEXT[position + 1 :]

        assert typo == TEXT or parse(typo) is None


@pytest.mark.parametrize(
    "text", ["", TEXT[:-1], TEXT + "a", TEXT + "\n", " " + TEXT, TEXT.upper(), "Bearer " + TEXT, "x" * 10**6]
)
def test_what_has_another_shape_is_no_credential(text: str) -> None:
    assert parse(text) is None


def test_of_ten_thousand_random_texts_none_passes_the_checksum() -> None:
    drawn = random.Random(1)
    texts = (
        "".join(drawn.choices("0123456789abcdef", k=32)) + "_" + "".join(drawn.choices(BASE62, k=49))
        for _ in range(10_000)
    )

    assert [text for text in texts if parse(f"vol_sk_{text}") is not None] == []


def test_the_checksum_is_the_crc_32_of_all_that_precedes_it() -> None:
    number = 0
    for digit in TEXT[-6:]:
        number = number * 62 + BASE62.index(digit)

    assert number == zlib.crc32(TEXT[:-6].encode())


@pytest.mark.parametrize(("credential_id", "secret"), [(ID[:15], bytes(32)), (ID, bytes(31)), (ID, bytes(33))])
def test_a_short_secret_mints_nothing(credential_id: bytes, secret: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        mint(credential_id, secret)
