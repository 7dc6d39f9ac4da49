"""Links: equal links are equal bytes, and only what this deployment signed for this act opens."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters, digits
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volenti.core.policy.document import Channel
from volenti.keys.keyring import Keyring, generate, parse
from volenti.keys.links import (
    AskingLink,
    ConfirmationLink,
    read_asking,
    read_confirmation,
    sign_asking,
    sign_confirmation,
)


def keyring_from(start: int) -> Keyring:
    drawn = iter(range(start, start + 128))
    return parse(generate(lambda count: bytes(next(drawn) for _ in range(count))))


KEYRING, OTHER_KEYRING = keyring_from(0), keyring_from(100)
WORKSPACE, HOLDER, ENTRY = (UUID(int=n << 64 | n) for n in (1, 2, 3))
CONFIRMATION = ConfirmationLink(WORKSPACE, HOLDER, ENTRY, 1_800_000_000)
ASKING = AskingLink(WORKSPACE, HOLDER, "newsletter", "email", 1_800_000_000)
READERS: list[Callable[[Keyring, str], object]] = [read_confirmation, read_asking]
SIGNED = [(read_confirmation, sign_confirmation(KEYRING, CONFIRMATION)), (read_asking, sign_asking(KEYRING, ASKING))]


def test_a_confirmation_link_that_is_out_there_stays_the_same_to_the_byte() -> None:
    assert (
        sign_confirmation(KEYRING, CONFIRMATION)
        == "AST27WoAAAAAAAAAAQAAAAAAAAABAAAAAAAAAAIAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAMAAGtJ0gAgGVE0uPSpDN8loQ0uxIKo"
    )


@given(
    st.uuids(), st.uuids(), st.from_regex(r"[a-z0-9_.-]{1,64}", fullmatch=True), st.sampled_from([None, *Channel]), st.integers(0, 2**48 - 1)
)  # fmt: skip
def test_a_link_opens_as_it_was_signed_and_signs_the_same_again(
    workspace: UUID, holder: UUID, purpose: str, channel: Channel | None, expires_at: int
) -> None:
    link = AskingLink(workspace, holder, purpose, channel, expires_at)
    token = sign_asking(KEYRING, link)
    assert read_asking(KEYRING, token) == link
    assert sign_asking(KEYRING, link) == token
    assert set(token) <= {*ascii_letters, *digits, "-", "_"}
    assert len(token) <= 176


@pytest.mark.parametrize(("read", "token"), SIGNED, ids=["confirmation", "asking"])
def test_no_other_text_opens_and_no_link_opens_for_another_act(
    read: Callable[[Keyring, str], object], token: str
) -> None:
    assert read(KEYRING, token) is not None
    assert read(OTHER_KEYRING, token) is None
    assert [one for one in READERS if one is not read and one(KEYRING, token) is not None] == []

    for position in range(len(token)):
        for character in ascii_letters[:2] + "_":
            changed = token[:position] + character + token[position + 1 :]
            assert changed == token or read(KEYRING, changed) is None
    for text in ("", "x", token[:-1], token + "A", token + "=", token + "==", f" {token}", f"{token}\n", "A" * len(token), "ä" * 100, "A" * 10_000):  # fmt: skip
        assert read(KEYRING, text) is None
