"""Checkpoints are signed with pure Ed25519, and the key is named as C2SP names it."""

import base64

import pytest

from volenti.core.ledger import note
from volenti.errors import VerificationError
from volenti.keys.keyring import generate, parse
from volenti.keys.signer import LocalSigner, Signer

ORIGIN = "volenti.example/acme"
TEXT = "volenti.example/acme\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def signer(start: int = 0) -> Signer:
    drawn = iter(range(start, start + 128))
    return LocalSigner(parse(generate(lambda count: bytes(next(drawn) for _ in range(count)))))


def test_the_vkey_of_the_log_is_the_published_vector() -> None:
    assert signer().vkey(ORIGIN) == "volenti.example/acme+805f22f2+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"


async def test_the_signature_of_the_empty_log_is_the_published_vector() -> None:
    line = "gF8i8jcVzrZ+wWy8Jpamxg/Wl3NkQ7gc3D4POfqdn7IpL1gB2zJcLHP0eYyGhyvfMEGkK8zsfN//UIQ2ED8IV4FcEQ4="

    assert await signer().sign(TEXT.encode()) == base64.b64decode(line)[4:]


async def test_a_signed_note_verifies_under_the_vkey_and_under_no_other() -> None:
    key = note.parse_vkey(signer().vkey(ORIGIN))
    signed = note.assemble(TEXT, [note.signature_line(ORIGIN, key.key_id, await signer().sign(TEXT.encode()))])

    assert note.verify(signed, [key]) == (note.Verified(key, None),)
    with pytest.raises(VerificationError):
        note.verify(signed, [note.parse_vkey(signer(start=100).vkey(ORIGIN))])
    with pytest.raises(VerificationError):
        note.verify(signed.replace("\n0\n", "\n1\n"), [key])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\x00b"])
def test_a_name_that_cannot_stand_in_a_note_is_refused(name: str) -> None:
    with pytest.raises(VerificationError):
        signer().vkey(name)
