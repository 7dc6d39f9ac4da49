"""An offer verifies as it was signed, for its workspace, until its time is over; no forged token does."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from volenti.errors import Invalid
from volenti.keys.keyring import Keyring, generate, parse
from volenti.keys.tokens import (
    CLOCK_LEEWAY_SECONDS,
    LONGEST_TOKEN,
    Offer,
    OfferedNotice,
    OfferedPurpose,
    OfferRefused,
    sign_offer,
    verify_offer,
)

WORKSPACE = "0197c0de-0000-7000-8000-000000000001"
OTHER_WORKSPACE = "0197c0de-0000-7000-8000-000000000002"
NOW = 1_790_000_000
INVALID, EXPIRED = OfferRefused("offer_invalid"), OfferRefused("offer_expired")


def counting(start: int) -> Callable[[int], bytes]:
    drawn = iter(range(start, start + 128))
    return lambda count: bytes(next(drawn) for _ in range(count))


KEYRING, OTHER_KEYRING = parse(generate(counting(0))), parse(generate(counting(100)))
OFFER = Offer(
    workspace=WORKSPACE,
    id="0197c0de-0000-7000-8000-00000000000a",
    notices=(OfferedNotice("newsletter", 3, "ca2222d7b403db1f7ae83da2173985d0b230b723615b282be897c4edc84558a7"),),
    purposes=(OfferedPurpose("newsletter", "off"), OfferedPurpose("ads", "on")),
    surface="https://shop.example/signup",
    language="de",
    issued_at=NOW,
    expires_at=NOW + 3600,
    buttons=("accept", "reject"),
)
TOKEN = sign_offer(KEYRING, OFFER)


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(token: str, index: int) -> dict[str, Any]:
    text = token.split(".")[index]
    loaded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return loaded


HEADER, CLAIMS = part(TOKEN, 0), part(TOKEN, 1)
Sign = Callable[[bytes], bytes]


def forged(header: Any = HEADER, claims: Any = CLAIMS, sign: Sign = KEYRING.token_key.sign) -> str:
    """Give a token with the right signature over whatever it is given; bytes and text stand as they are."""
    parts = [item if isinstance(item, str) else json.dumps(item) for item in (header, claims)]
    signing_input = ".".join(segment(item.encode()) for item in parts)
    return f"{signing_input}.{segment(sign(signing_input.encode()))}"


def with_mac(secret: bytes) -> Sign:
    return lambda data: hmac.digest(secret, data, "sha256")


def without(member: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name != member}


def test_an_offer_comes_back_as_it_was_signed() -> None:
    assert verify_offer(KEYRING, WORKSPACE, TOKEN, NOW + 1) == OFFER


def test_the_token_has_exactly_these_parts() -> None:
    assert {"alg": "EdDSA", "kid": KEYRING.token_key_id, "typ": "offer+jwt"} == HEADER
    assert {
        "iss": "volenti",
        "aud": WORKSPACE,
        "jti": OFFER.id,
        "iat": NOW,
        "exp": NOW + 3600,
        "notices": [{"key": "newsletter", "version": 3, "hash": OFFER.notices[0].hash}],
        "purposes": [{"purpose": "newsletter", "default": "off"}, {"purpose": "ads", "default": "on"}],
        "surface": "https://shop.example/signup",
        "language": "de",
        "buttons": ["accept", "reject"],
    } == CLAIMS


def test_another_library_call_verifies_it_too() -> None:
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(
        TOKEN,
        KEYRING.token_key.public_key(),
        algorithms=["EdDSA"],
        audience=WORKSPACE,
        issuer="volenti",
        options=options,
    )

    assert claims == CLAIMS


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - CLOCK_LEEWAY_SECONDS - 1, INVALID),
        (NOW - CLOCK_LEEWAY_SECONDS, OFFER),
        (NOW, OFFER),
        (NOW + 3599, OFFER),
        (NOW + 3600, EXPIRED),
        (NOW + 10**9, EXPIRED),
    ],
)
def test_the_time_that_counts_is_the_one_passed_in(now: int, expected: Offer | OfferRefused) -> None:
    assert verify_offer(KEYRING, WORKSPACE, TOKEN, now) == expected


def test_an_offer_proves_nothing_in_another_workspace_or_under_other_keys() -> None:
    assert verify_offer(KEYRING, OTHER_WORKSPACE, TOKEN, NOW) == INVALID
    assert verify_offer(OTHER_KEYRING, WORKSPACE, TOKEN, NOW) == INVALID


def test_an_expired_offer_of_another_workspace_is_invalid_and_not_expired() -> None:
    assert verify_offer(KEYRING, OTHER_WORKSPACE, TOKEN, NOW + 10**9) == INVALID


def test_the_forger_of_these_tests_can_write_a_good_token() -> None:
    assert verify_offer(KEYRING, WORKSPACE, forged(), NOW) == OFFER


PUBLIC = KEYRING.token_key.public_key()
RAW = PUBLIC.public_bytes_raw()
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
HS256 = {**HEADER, "alg": "HS256"}

FORGED: dict[str, str] = {
    # algorithm confusion
    "alg none, no signature": forged({**HEADER, "alg": "none"}, sign=lambda data: b""),
    "alg None": forged({**HEADER, "alg": "None"}, sign=lambda data: b""),
    "alg none, good signature": forged({**HEADER, "alg": "none"}),
    "alg missing": forged({name: HEADER[name] for name in ("kid", "typ")}),
    "alg null": forged({**HEADER, "alg": None}),
    "alg in lower case": forged({**HEADER, "alg": "eddsa"}),
    "alg Ed25519": forged({**HEADER, "alg": "Ed25519"}),
    "HS256 with the public key's bytes": forged(HS256, sign=with_mac(RAW)),
    "HS256 with the public key's PEM": forged(HS256, sign=with_mac(PEM)),
    "HS256 with an empty secret": forged(HS256, sign=with_mac(b"")),
    "EdDSA, but a MAC of 64 bytes": forged(sign=lambda data: hmac.digest(RAW, data, hashlib.sha512)),
    "no signature": forged(sign=lambda data: b""),
    "a signature of zeros": forged(sign=lambda data: bytes(64)),
    "the log key's signature": forged(sign=KEYRING.log_key.sign),
    "somebody's signature": forged(sign=Ed25519PrivateKey.from_private_bytes(b"\x05" * 32).sign),
    # header
    "typ JWT": forged({**HEADER, "typ": "JWT"}),
    "typ at+jwt": forged({**HEADER, "typ": "at+jwt"}),
    "typ in capitals": forged({**HEADER, "typ": "OFFER+JWT"}),
    "typ missing": forged({name: HEADER[name] for name in ("kid", "alg")}),
    "kid missing": forged({name: HEADER[name] for name in ("alg", "typ")}),
    "kid of the log key": forged({**HEADER, "kid": KEYRING.log_key_id}),
    "kid a path": forged({**HEADER, "kid": "../../dev/null"}),
    "kid a number": forged({**HEADER, "kid": 1}),
    "jku": forged({**HEADER, "jku": "https://evil.example/keys"}),
    "x5u": forged({**HEADER, "x5u": "https://evil.example/keys"}),
    "jwk": forged({**HEADER, "jwk": {"kty": "OKP", "crv": "Ed25519", "x": segment(RAW)}}),
    "cty": forged({**HEADER, "cty": "JWT"}),
    "crit": forged({**HEADER, "crit": ["exp"]}),
    "crit empty": forged({**HEADER, "crit": []}),
    "b64 true": forged({**HEADER, "b64": True}),
    "b64 false": forged({**HEADER, "b64": False, "crit": ["b64"]}),
    "b64 false without crit": forged({**HEADER, "b64": False}),
    "header a list": forged([HEADER]),
    "header null": forged("null"),
    "header not JSON": forged("{"),
    "header too deep": forged("[" * 2500),
    # claims
    **{f"no {member}": forged(claims=without(member)) for member in CLAIMS},
    **{f"{member} null": forged(claims={**CLAIMS, member: None}) for member in CLAIMS},
    "aud of another workspace": forged(claims={**CLAIMS, "aud": OTHER_WORKSPACE}),
    "aud in capitals": forged(claims={**CLAIMS, "aud": WORKSPACE.upper()}),
    "aud a list": forged(claims={**CLAIMS, "aud": [WORKSPACE]}),
    "aud empty": forged(claims={**CLAIMS, "aud": ""}),
    "iss of another service": forged(claims={**CLAIMS, "iss": "volenti.example"}),
    "iss a list": forged(claims={**CLAIMS, "iss": ["volenti"]}),
    "exp in quotes": forged(claims={**CLAIMS, "exp": str(NOW + 3600)}),
    "exp true": forged(claims={**CLAIMS, "exp": True}),
    "exp a fraction": forged(claims={**CLAIMS, "exp": NOW + 0.5}),
    "exp infinite": forged(claims={**CLAIMS, "exp": float("inf")}),
    "exp a list": forged(claims={**CLAIMS, "exp": [NOW + 3600]}),
    "exp at iat": forged(claims={**CLAIMS, "exp": NOW}),
    "exp before iat": forged(claims={**CLAIMS, "exp": NOW - 1}),
    "iat in quotes": forged(claims={**CLAIMS, "iat": str(NOW)}),
    "iat far ahead": forged(claims={**CLAIMS, "iat": NOW + 600}),
    "jti a number": forged(claims={**CLAIMS, "jti": 7}),
    "nbf": forged(claims={**CLAIMS, "nbf": NOW}),
    "a toggle that is neither on nor off": forged(
        claims={**CLAIMS, "purposes": [{"purpose": "ads", "default": "maybe"}]}
    ),
    "claims a list": forged(claims=[CLAIMS]),
    "claims not JSON": forged(claims="{"),
    "claims empty": forged(claims=""),
    # shape
    "empty": "",
    "two segments": TOKEN.rsplit(".", 1)[0],
    "four segments": TOKEN + "." + TOKEN.rsplit(".", 1)[1],
    "five segments, as if encrypted": "a.b.c.d.e",
    "padding": TOKEN + "==",
    "a new line at the end": TOKEN + "\n",
    "a space before": " " + TOKEN,
    "a character outside ASCII": TOKEN[:-1] + "\u0661",
    "half a surrogate pair": TOKEN[:-1] + "\ud800",
    "longer than 8 KiB": forged(claims={**CLAIMS, "surface": "x" * LONGEST_TOKEN}),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_invalid(token: str) -> None:
    assert verify_offer(KEYRING, WORKSPACE, token, NOW) == INVALID


def test_no_flipped_bit_verifies() -> None:
    for position, character in enumerate(TOKEN):
        for bit in range(7):
            flipped = TOKEN[:position] + chr(ord(character) ^ (1 << bit)) + TOKEN[position + 1 :]

            assert verify_offer(KEYRING, WORKSPACE, flipped, NOW) == INVALID


def test_an_offer_too_long_for_a_verifier_is_not_signed() -> None:
    purposes = tuple(OfferedPurpose(f"purpose_{number}", "off") for number in range(300))
    with pytest.raises(Invalid):
        sign_offer(KEYRING, msgspec.structs.replace(OFFER, purposes=purposes))


def test_signing_is_the_token_keys_alone() -> None:
    swapped = Keyring(KEYRING.token_key, KEYRING.log_key, KEYRING.key_encryption_key, KEYRING.pepper)

    assert verify_offer(swapped, WORKSPACE, TOKEN, NOW) == INVALID
