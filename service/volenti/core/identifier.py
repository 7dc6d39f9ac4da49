"""What makes two identifiers of a person the same: the match key. Values are stored as given; only keys are compared.

The rule is frozen under its version: which version made a key is written into the event and into the blind index, so
a later rule cannot change old matches. Nothing but this module computes it, SQL's `lower()` least of all.
"""

import re
import unicodedata
from typing import Final, Literal, assert_never

import idna
import phonenumbers

from volenti.errors import Invalid

IdentifierType = Literal["id", "email", "phone", "device", "external"]
"""`id` is the caller's own id for the person, `external` one of another system, `device` a device's or a push token."""

RULE_VERSION: Final = 1


def match_key(type: IdentifierType, value: str, *, region: str | None = None) -> str:  # noqa: A002 - the member's name
    """Give what is compared in place of an identifier's value; the key of a key is the key itself.

    region: ISO 3166-1 alpha-2, for a phone number that does not begin with `+`; nothing else reads it.
    Raises Invalid, with a sentence that never holds the value.
    """
    match type:
        case "email":
            return _email(value)
        case "phone":
            return _phone(value, region)
        case "id":
            return _opaque(value, "the person's id", longest=128, slash=False)
        case "external":
            return _opaque(value, "an external id", longest=128, slash=False)
        case "device":  # push tokens are longer than ids, and some are addresses; none ever stands in a path of ours
            return _opaque(value, "a device id", longest=512, slash=True)
        case _:
            assert_never(type)


# --- e-mail

_TRIMMED: Final = (
    " \t\r\n\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_ATOM: Final = r"(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])+"
_DOT_ATOM: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")  # RFC 5321 and 6531, without the quoted form


def _email(value: str) -> str:
    text = value.strip(_TRIMMED)
    if len(text) > 254:
        raise Invalid("an e-mail address has at most 254 characters")
    # Composed first: U+212A (Kelvin) becomes K, which the lowering must still see.
    local, _, domain = unicodedata.normalize("NFC", text).rpartition("@")
    if not text.isascii():
        _refuse_unseen(local + domain)
    # Composed again: H with U+0331 has no composed form, but the lowered h has one (U+1E96).
    local = unicodedata.normalize("NFC", local.translate(_ASCII_LOWER))
    if not _DOT_ATOM.fullmatch(local):
        raise Invalid("an e-mail address has a local part, without quotes, spaces or stray dots, before its last @")
    if not local.isascii():
        _refuse_mixed_scripts(local)
    key = f"{local}@{_a_labels(domain)}"
    if len(key.encode()) > 254:
        raise Invalid("an e-mail address has at most 254 bytes")
    return key


def _refuse_unseen(text: str) -> None:
    """Refuse what a reader cannot see or this Unicode does not know: Cc, Cf (zero-width, bidi), Co, Cn, Cs, and Z."""
    if any(unicodedata.category(character)[0] in "CZ" for character in text):
        raise Invalid("an e-mail address holds no spaces and no control, format or unassigned characters")


def _a_labels(domain: str) -> str:
    """Give the domain as IDNA A-labels in lower case: UTS 46, non-transitional, so that ß stays itself.

    The standard library's codec follows IDNA 2003 and makes `strasse` of it.
    """
    try:
        encoded = idna.encode(domain, uts46=True, transitional=False, std3_rules=True).decode("ascii")
    except idna.IDNAError:
        raise Invalid("the domain of an e-mail address is not a valid internet domain name") from None
    if "." not in encoded or encoded.endswith("."):
        raise Invalid("the domain of an e-mail address has two labels or more and does not end in a dot")
    return encoded


# A letter's script is the first word of its name: Unicode never changes a name, so that every Python gives the same
# answer. Compared with the Script property of Unicode 14; where the two differ and it matters, this table decides.
# The letters of formulas (MATHEMATICAL BOLD SMALL A) count as a script of their own, more strictly than Unicode does.
_SCRIPT_OF: Final = {
    "CJK": "HAN",
    "IDEOGRAPHIC": "HAN",
    "HENTAIGANA": "HIRAGANA",
    "FEMININE": "LATIN",  # ª and º, as in Mª for María
    "MASCULINE": "LATIN",
    "TURNED": "LATIN",
    "ROMAN": "LATIN",
    "MODIFIER": "",  # the okina, the apostrophe as a letter: at home in many scripts
    "MICRO": "",
}
_WIDTHS: Final = frozenset({"FULLWIDTH", "HALFWIDTH", "SUPERSCRIPT"})
# Written together by habit, and one script by Unicode's rule for it (UTS 39, section 5.1).
_TOGETHER: Final = (
    frozenset({"HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"HAN", "HANGUL"}),
    frozenset({"HAN", "BOPOMOFO"}),
)


def _refuse_mixed_scripts(local: str) -> None:
    scripts = {_script(character) for character in local if unicodedata.category(character)[0] == "L"} - {""}
    if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
        raise Invalid("the local part of an e-mail address is written in one script")


def _script(letter: str) -> str:
    words = unicodedata.name(letter, "UNNAMED").replace("-", " ").split()
    word = words[1] if words[0] in _WIDTHS else words[0]
    return _SCRIPT_OF.get(word, word)


# --- phone

_PHONE: Final = re.compile(r"\(?\+?[0-9][0-9 \u00a0().\-/\u2010-\u2013]{1,39}")


def _phone(value: str, region: str | None) -> str:
    text = value.strip(_TRIMMED)
    if not _PHONE.fullmatch(text):
        raise Invalid("a phone number is written with digits, spaces and ()-./, after a + if it is international")
    if "+" in text:
        region = None
    elif region is None:
        raise Invalid("a national phone number needs a region: write it with + and its country code")
    elif region not in phonenumbers.SUPPORTED_REGIONS:
        raise Invalid("the region of a phone number is a two-letter country code")
    key = _e164(text, region)
    # A doubled trunk prefix (+49 00 30 ...) would lose one zero a turn: such a number has no form to rest in.
    if _e164(key, None) != key:
        raise Invalid("a phone number has a country code and its digits, without further prefixes")
    return key


def _e164(text: str, region: str | None) -> str:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        raise Invalid("a phone number has a known country code and enough digits") from None
    key = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if len(key) > 16:
        raise Invalid("a phone number has at most 15 digits")
    return key


# --- everything else


def _opaque(value: str, what: str, *, longest: int, slash: bool) -> str:
    """Give the value itself: `A` and `a` are two people."""
    if not 1 <= len(value) <= longest:
        raise Invalid(f"{what} has 1 to {longest} characters")
    if not slash and "/" in value:
        raise Invalid(f"{what} holds no /")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise Invalid(f"{what} holds no control characters and no half of a surrogate pair")
    return value
