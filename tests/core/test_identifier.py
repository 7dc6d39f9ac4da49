"""Two identifiers are the same person's when their match keys are equal, and the rule for it never changes."""

import json
import unicodedata
from pathlib import Path
from typing import Any, get_args

import idna
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from volenti.core.identifier import RULE_VERSION, IdentifierType, match_key
from volenti.errors import Invalid

FROZEN = json.loads((Path(__file__).parents[1] / "vectors" / "identifiers.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = FROZEN["cases"]


def key_of(type_: IdentifierType, value: str) -> str | None:
    try:
        return match_key(type_, value)
    except Invalid:
        return None


def test_the_vectors_are_of_this_version_and_cover_every_type() -> None:
    assert FROZEN["rule_version"] == RULE_VERSION
    assert {case["type"] for case in CASES} == set(get_args(IdentifierType))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['type']}-{case['why']}")
def test_frozen_vector(case: dict[str, Any]) -> None:
    if case["key"] is not None:
        assert match_key(case["type"], case["value"], region=case.get("region")) == case["key"]
        return
    with pytest.raises(Invalid) as refused:
        match_key(case["type"], case["value"], region=case.get("region"))
    assert len(case["value"]) < 3 or case["value"] not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_lone_surrogate_is_refused_and_never_raises_another_error() -> None:
    assert [key_of(type_, "a\ud800b@example.org") for type_ in get_args(IdentifierType)] == [None] * 5


# --- laws

LATIN = "aAbBkKhHtTiIsS+-_'\u00e9\u00c9\u0301\u0331\u0308\u030c\u212a\u0130\u0131\u00df\u1e9e\ufb01\u017f\u1fef\U0001f600\u00aa"
REFUSED = "@ .\u2126\u200b\u00ad\u0430\u03b1\u5c71\u305f\ud55c"
plausible = st.text(LATIN, min_size=1, max_size=8)
dotted = st.lists(plausible, min_size=1, max_size=2).map(".".join)
wild = st.text(st.one_of(st.sampled_from(LATIN + REFUSED), st.characters(codec="utf-8")), min_size=1, max_size=12)
labels = st.text(
    st.sampled_from("aAbxXn-0\u00fc\u00dc\u00df\u1e9e\u0130\u0131\uff41\u3002\u0301\u5c71\u0430"),
    min_size=1,
    max_size=8,
)
domains = st.one_of(
    st.sampled_from(["example.org", "EXAMPLE.org", "B\u00dcCHER.example"]),
    st.builds("{}.{}".format, labels, st.sampled_from(["org", "ORG", "\u0440\u0444"])),
)
good_domains = st.sampled_from(
    ["example.org", "EXAMPLE.org", "B\u00dcCHER.example", "xn--bcher-kva.example", "example.com"]
)
addresses = st.builds("{}@{}".format, st.one_of(dotted, wild), domains)
good_addresses = st.builds("{}@{}".format, dotted, good_domains)
phones = st.from_regex(r"\A\(?\+?[0-9][0-9 ().\-/]{1,18}\Z")


@given(addresses)
@example("H\u0331@example.org")
@example("\u212a@example.org")
def test_the_key_of_an_address_is_its_own_key(value: str) -> None:
    key = key_of("email", value)

    assert key is None or match_key("email", key) == key


@given(phones, st.sampled_from([None, "DE", "US", "IT", "AR", "MX", "BR"]))
def test_the_key_of_a_phone_number_is_its_own_key(value: str, region: str | None) -> None:
    try:
        key = match_key("phone", value, region=region)
    except Invalid:
        return

    assert key[0] == "+"
    assert key[1:].isascii()
    assert key[1:].isdigit()
    assert len(key) <= 16
    assert match_key("phone", key) == match_key("phone", key, region="US") == key


@given(st.sampled_from(["id", "external", "device"]), st.text(max_size=130))
def test_an_opaque_identifier_is_its_own_key_or_refused(type_: IdentifierType, value: str) -> None:
    assert key_of(type_, value) in {value, None}


def folded(value: str) -> tuple[list[str], str]:
    """Give what must be equal for two addresses to be one: written apart from the code that it judges."""
    local, domain = unicodedata.normalize("NFC", value).strip().rsplit("@", 1)
    letters = [character.lower() if character.isascii() else character for character in local]
    u_label = idna.decode(idna.encode(domain, uts46=True))
    return list(unicodedata.normalize("NFC", "".join(letters))), u_label


@given(good_addresses, st.data())
def test_two_addresses_share_a_key_only_if_they_are_equal_after_the_steps(one: str, data: st.DataObject) -> None:
    variants = [one.upper(), one.lower(), one.swapcase(), one.casefold(), one.replace(".", ""), one.replace("+", "")]
    variants += [unicodedata.normalize(form, one) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    other = data.draw(st.one_of(st.sampled_from(variants), good_addresses))
    key, other_key = key_of("email", one), key_of("email", other)
    assume(other_key is not None)  # a variant may have lost its dot or gained a space

    assert key is not None
    assert (key == other_key) == (folded(one) == folded(other))


@given(addresses)
def test_an_address_that_has_a_key_shows_all_its_characters(value: str) -> None:
    key = key_of("email", value)
    if key is None:
        return

    assert {unicodedata.category(character)[0] for character in key}.isdisjoint("CZ")
    assert key.rsplit("@", 1)[1].isascii()
