"""Offers: signed statements of what was put before a person, as EdDSA tokens (`offer+jwt`).

A write that presents its offer proves what was on the screen: the exact notices, and how each toggle stood. The
library checks the signature and nothing else; header, claims and time are checked here, because its own checks
leave the type out, take a number for a date in quotes, and read a clock.
"""

import re
from typing import Final, Literal

import jwt
import msgspec

from volenti.errors import Invalid
from volenti.keys.keyring import Keyring

ISSUER: Final = "volenti"
OFFER_TYPE: Final = "offer+jwt"
LONGEST_TOKEN: Final = 8 * 1024
CLOCK_LEEWAY_SECONDS: Final = 30  # replicas' clocks differ: how far ahead an offer may have been issued

Toggle = Literal["on", "off"]
Button = Literal["accept", "reject", "save"]


class OfferedNotice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text that was shown: its key, its version, and the SHA-256 of its content in hex."""

    key: str
    version: int
    hash: str


class OfferedPurpose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A purpose that was offered, and how its toggle stood before the person touched it: pre-ticking shows."""

    purpose: str
    default: Toggle


class Offer(msgspec.Struct, frozen=True):
    """What was put before a person. Times are seconds since 1970; ids are UUIDs in text.

    `buttons` are those shown beside the toggles, for the parity of refusing; empty where they are not known.
    """

    workspace: str
    id: str
    notices: tuple[OfferedNotice, ...]
    purposes: tuple[OfferedPurpose, ...]
    surface: str
    language: str
    issued_at: int
    expires_at: int
    buttons: tuple[Button, ...] = ()


class OfferRefused(msgspec.Struct, frozen=True):
    """Why a token proves nothing: it is not one of ours for this workspace, or it is, and its time is over."""

    code: Literal["offer_invalid", "offer_expired"]


def sign_offer(keyring: Keyring, offer: Offer) -> str:
    """Give the offer's token. Raises Invalid if it would be longer than a verifier takes."""
    claims = _Claims(
        iss=ISSUER,
        aud=offer.workspace,
        jti=offer.id,
        iat=offer.issued_at,
        exp=offer.expires_at,
        notices=offer.notices,
        purposes=offer.purposes,
        surface=offer.surface,
        language=offer.language,
        buttons=offer.buttons,
    )
    header = _header(keyring)
    token = _JWS.encode(msgspec.json.encode(claims), keyring.token_key, algorithm=header["alg"], headers=header)
    if len(token) > LONGEST_TOKEN:
        raise Invalid("an offer has at most 8 KiB as a token; offer fewer purposes at once")
    return token


def verify_offer(keyring: Keyring, workspace: str, token: str, now_s: int) -> Offer | OfferRefused:
    """Give the offer of a token that this deployment signed for this workspace and whose time is not over.

    An expired offer is told from an invalid one only after its signature held.
    """
    claims = _verified_claims(keyring, token)
    if claims is None or claims.iss != ISSUER or claims.aud != workspace:
        return OfferRefused("offer_invalid")
    if not claims.iat < claims.exp or claims.iat > now_s + CLOCK_LEEWAY_SECONDS:
        return OfferRefused("offer_invalid")
    if now_s >= claims.exp:
        return OfferRefused("offer_expired")
    return Offer(
        workspace=claims.aud,
        id=claims.jti,
        notices=claims.notices,
        purposes=claims.purposes,
        surface=claims.surface,
        language=claims.language,
        issued_at=claims.iat,
        expires_at=claims.exp,
        buttons=claims.buttons,
    )


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The claims as they stand in the token; what is missing here or of another type makes the token invalid."""

    iss: str
    aud: str
    jti: str
    iat: int
    exp: int
    notices: tuple[OfferedNotice, ...]
    purposes: tuple[OfferedPurpose, ...]
    surface: str
    language: str
    buttons: tuple[Button, ...]


_ALGORITHM: Final = "EdDSA"
_JWS: Final = jwt.PyJWS(algorithms=[_ALGORITHM])
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_CLAIMS: Final = msgspec.json.Decoder(_Claims)


def _header(keyring: Keyring) -> dict[str, str]:
    """Give the one header that a token of this key has: no `crit`, no `jku`, no key of its own can stand beside."""
    return {"alg": _ALGORITHM, "kid": keyring.token_key_id, "typ": OFFER_TYPE}


def _verified_claims(keyring: Keyring, token: str) -> _Claims | None:
    if len(token) > LONGEST_TOKEN or not _SHAPE.fullmatch(token):
        return None
    try:
        if _JWS.get_unverified_header(token) != _header(keyring):
            return None
        payload = _JWS.decode(token, keyring.token_key.public_key(), algorithms=[_ALGORITHM])
        return _CLAIMS.decode(payload)
    except (jwt.InvalidTokenError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
