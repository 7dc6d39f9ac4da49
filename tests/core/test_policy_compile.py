"""The compiled policy answers as the document says; its canonical bytes are one for one with the document."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.policy.canonical import document_bytes, document_hash, parse_document
from volenti.core.policy.compile import CompiledPurpose, compile_policy, in_force, terms_for
from volenti.core.policy.document import (
    Action,
    Change,
    Channel,
    ConsentTerms,
    Controller,
    EvidenceGrade,
    LawfulBasis,
    MessageClass,
    Notice,
    NoticeText,
    Policy,
    Purpose,
    Topic,
)
from volenti.core.policy.duration import Duration
from volenti.core.policy.jurisdiction import COUNTRIES, EEA, EU, is_jurisdiction, lookup_order
from volenti.core.policy.notice import PublishedNotice, newly_published, notice_hash, published_form, required_version
from volenti.core.policy.schema import json_schema
from volenti.core.policy.terms import strictest
from volenti.errors import Invalid

CONSENT, INTEREST, OPT_OUT, CONTRACT, LAW = (
    LawfulBasis.CONSENT,
    LawfulBasis.LEGITIMATE_INTEREST,
    LawfulBasis.OPT_OUT,
    LawfulBasis.CONTRACT,
    LawfulBasis.LEGAL_OBLIGATION,
)


def basis_for(purpose: CompiledPurpose, jurisdictions: tuple[str, ...]) -> LawfulBasis:
    return terms_for(purpose, Action.USE, None, jurisdictions).basis


def notice(version: int = 1, change: Change = Change.MATERIAL, body: str = "What is new.") -> Notice:
    return Notice(version=version, change=change, text={"en": NoticeText(title="Newsletter", body=body)})


def policy_of(purpose: Purpose, *, markets: tuple[str, ...] = (), notices: dict[str, Notice] | None = None) -> Policy:
    return Policy(
        controller=Controller(name="Acme GmbH"), markets=markets, notices=notices or {}, purposes={"p": purpose}
    )


def compiled(basis: dict[str, LawfulBasis], *, markets: tuple[str, ...] = ()) -> CompiledPurpose:
    return compile_policy(
        policy_of(Purpose(actions=(Action.USE,), basis=basis), markets=markets), (), None, 0
    ).purposes["p"]


# --- which basis binds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("basis", "jurisdictions", "expected"),
    [
        ({"default": CONSENT}, ("DE",), CONSENT),
        ({"default": CONSENT, "US": OPT_OUT}, ("US",), OPT_OUT),
        ({"default": CONSENT, "US": OPT_OUT}, ("US-TX",), OPT_OUT),
        ({"default": CONSENT, "US": OPT_OUT}, ("DE",), CONSENT),
        ({"default": OPT_OUT, "US-CA": CONSENT}, ("US-CA",), CONSENT),
        ({"default": OPT_OUT, "US-CA": CONSENT}, ("US-TX",), OPT_OUT),
        ({"default": OPT_OUT, "US-CA": CONSENT}, ("US",), OPT_OUT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("DE",), CONSENT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("DE-BY",), CONSENT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("RE",), CONSENT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("NO",), OPT_OUT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("CH",), OPT_OUT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("GB",), OPT_OUT),
        ({"default": OPT_OUT, "EEA": CONSENT}, ("NO",), CONSENT),
        ({"default": OPT_OUT, "EEA": CONSENT}, ("DE",), CONSENT),
        ({"default": OPT_OUT, "EEA": CONSENT}, ("EU",), CONSENT),
        ({"default": CONSENT, "EU": INTEREST, "EEA": OPT_OUT}, ("DE",), INTEREST),
        ({"default": CONSENT, "EU": INTEREST, "EEA": OPT_OUT}, ("IS",), OPT_OUT),
        ({"default": CONSENT, "EU": INTEREST, "DE": OPT_OUT}, ("DE",), OPT_OUT),
        ({"default": CONSENT, "EU": INTEREST, "DE": OPT_OUT}, ("DE-BE",), OPT_OUT),
        ({"default": OPT_OUT, "DE": CONSENT}, ("EU",), CONSENT),
        ({"default": OPT_OUT, "EU": CONSENT}, ("EEA",), CONSENT),
        ({"default": OPT_OUT, "DE": CONSENT}, ("BR", "DE"), CONSENT),
        ({"default": OPT_OUT, "DE": CONSENT}, ("BR", "JP"), OPT_OUT),
        ({"default": OPT_OUT, "DE": CONSENT}, ("ZZ",), OPT_OUT),
    ],
)
def test_a_place_is_looked_up_as_subdivision_country_group_then_default(
    basis: dict[str, LawfulBasis], jurisdictions: tuple[str, ...], expected: LawfulBasis
) -> None:
    assert expected == basis_for(compiled(basis), jurisdictions)


@pytest.mark.parametrize(
    ("markets", "expected"),
    [
        ((), OPT_OUT),
        (("BR",), OPT_OUT),
        (("BR", "GB"), INTEREST),
        (("BR", "GB", "DE"), CONSENT),
        (("EU",), CONSENT),
        (("EEA",), CONSENT),
        (("US",), CONSENT),
        (("US-TX",), OPT_OUT),
        (("US-CA",), CONSENT),
    ],
)
def test_an_unknown_place_has_the_strictest_rule_of_the_markets_and_of_their_parts(
    markets: tuple[str, ...], expected: LawfulBasis
) -> None:
    rows = {"default": OPT_OUT, "GB": INTEREST, "DE": CONSENT, "US-CA": CONSENT}

    assert expected == basis_for(compiled(rows, markets=markets), ())


@pytest.mark.parametrize(
    ("stricter", "laxer"),
    [
        (CONSENT, INTEREST),
        (CONSENT, OPT_OUT),
        (CONSENT, CONTRACT),
        (CONSENT, LAW),
        (INTEREST, OPT_OUT),
        (INTEREST, CONTRACT),
        (INTEREST, LAW),
        (OPT_OUT, CONTRACT),
        (OPT_OUT, LAW),
    ],
)
def test_of_two_bases_the_stricter_binds_in_either_order(stricter: LawfulBasis, laxer: LawfulBasis) -> None:
    purpose = compiled({"default": CONTRACT, "BR": stricter, "JP": laxer})

    assert stricter == basis_for(purpose, ("BR", "JP")) == basis_for(purpose, ("JP", "BR"))


@settings(deadline=None)
@given(st.permutations(list(LawfulBasis)))
def test_the_strictest_of_several_bases_does_not_depend_on_their_order(order: list[LawfulBasis]) -> None:
    assert strictest(order) == "prohibited"
    assert strictest(order[1:]) == strictest(reversed(order[1:]))


bases = st.dictionaries(
    st.sampled_from(["US", "US-CA", "DE", "DE-BY", "NO", "EU", "EEA", "GB"]), st.sampled_from(LawfulBasis)
).map(lambda rows: {"default": CONTRACT, **rows})
places = st.sampled_from(["US", "US-CA", "US-TX", "DE", "DE-BY", "FR", "NO", "GB", "CH", "RE", "JP", "JP-13"])


@settings(deadline=None)
@given(bases, places)
def test_the_table_agrees_with_the_lookup_row_by_row(rows: dict[str, LawfulBasis], place: str) -> None:
    expected = next(rows[row] for row in lookup_order(place) if row in rows)

    assert expected == basis_for(compiled(rows), (place,))


@settings(deadline=None)
@given(bases, st.lists(places, min_size=1, max_size=4), places)
def test_one_more_place_never_loosens_the_basis(rows: dict[str, LawfulBasis], some: list[str], more: str) -> None:
    purpose = compiled(rows)
    before, after = basis_for(purpose, tuple(some)), basis_for(purpose, (*some, more))

    assert after == strictest((before, after))


@settings(deadline=None)
@given(bases, st.lists(places, max_size=4))
def test_nobody_of_unknown_place_has_a_laxer_rule_than_in_a_market(
    rows: dict[str, LawfulBasis], markets: list[str]
) -> None:
    purpose = compiled(rows, markets=tuple(markets))
    unknown = basis_for(purpose, ())

    assert all(unknown == strictest((unknown, basis_for(purpose, (market,)))) for market in markets)


def test_the_member_states_are_those_of_the_treaties() -> None:
    assert (len(EU), len(EEA)) == (27 + 7, 30 + 7)
    assert EEA <= COUNTRIES
    assert len(COUNTRIES) == 249 + 1
    assert not {"GB", "CH", "UK", "EL"} & EEA


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("DE", True),
        ("US-CA", True),
        ("FR-75C", True),
        ("EU", True),
        ("EEA", True),
        ("UK", False),
        ("XX-AB", False),
        ("de", False),
        ("USA", False),
        ("US-", False),
        ("US-ABCD", False),
        ("EU-X", False),
        ("default", False),
    ],
)
def test_a_jurisdiction_is_a_code_of_iso_3166_or_a_group(code: str, expected: bool) -> None:
    assert expected is is_jurisdiction(code)


# --- the rest of a compiled purpose -------------------------------------------------------------------------------


def test_a_purpose_has_what_the_check_asks_for() -> None:
    document = Policy(
        controller=Controller(name="Acme GmbH"),
        notices={"n": notice(3)},
        purposes={
            "p": Purpose(
                message_class=MessageClass.MARKETING,
                actions=(Action.SEND, Action.USE),
                basis={"default": CONSENT},
                channels=(Channel.EMAIL, Channel.SMS),
                topics=("weekly",),
                notice="n",
                consent=ConsentTerms(valid_for="P24M", minimum_evidence=EvidenceGrade.E1),
                active_from=datetime(2026, 1, 1, 1, tzinfo=UTC),
            )
        },
        topics={"weekly": Topic()},
        backdating_limit="P10D",
    )

    policy = compile_policy(document, [], None, 0)
    purpose = policy.purposes["p"]

    assert (document, hashlib.sha256(document_bytes(document)).digest()) == (policy.document, policy.hash)
    assert Duration(days=10) == policy.backdating_limit
    assert {"n": published_form("n", notice(3))} == policy.notices
    assert policy.required_notice_version == {"n": 3}
    assert (
        purpose.key,
        purpose.message_class,
        purpose.notice,
        purpose.required_notice_version,
    ) == ("p", "marketing", "n", 3)
    assert frozenset({Action.SEND, Action.USE}) == purpose.actions
    assert frozenset({Channel.EMAIL, Channel.SMS}) == purpose.channels
    assert frozenset({"weekly"}) == purpose.topics
    assert all(word in purpose.actions for word in ("send", "use"))  # plain words of a question find their members
    assert (Duration(months=24), "E1") == (purpose.valid_for, purpose.minimum_evidence)
    assert (purpose.active_from_ms, purpose.retired_at_ms) == (1_767_229_200_000, None)


@pytest.mark.parametrize(
    ("start", "end", "at", "expected"),
    [
        (None, None, 0, True),
        (10, None, 9, False),
        (10, None, 10, True),
        (None, 20, 19, True),
        (None, 20, 20, False),
        (10, 20, 15, True),
        (10, 20, 25, False),
    ],
)
def test_a_purpose_is_in_force_from_its_start_until_just_before_its_end(
    start: int | None, end: int | None, at: int, expected: bool
) -> None:
    purpose = msgspec.structs.replace(compiled({"default": CONSENT}), active_from_ms=start, retired_at_ms=end)

    assert expected is in_force(purpose, at)


def test_evidence_grades_compare_in_their_order() -> None:
    grades = list(EvidenceGrade)

    assert grades == sorted(grades)
    assert EvidenceGrade.E0 < EvidenceGrade.E1 < EvidenceGrade.E4


@pytest.mark.parametrize(
    "purpose",
    [
        Purpose(actions=(Action.USE,), basis={"DE": CONSENT}),
        Purpose(actions=(Action.USE,), basis={"default": CONSENT}, notice="none"),
        Purpose(actions=(Action.USE,), basis={"default": CONSENT}, consent=ConsentTerms(valid_for="P0D")),
    ],
)
def test_a_policy_that_lint_refuses_does_not_compile(purpose: Purpose) -> None:
    with pytest.raises(Invalid):
        compile_policy(policy_of(purpose), (), None, 0)


# --- notices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("1M", 1),
        ("1m", 1),
        ("1M 2m", 1),
        ("1M 2M", 2),
        ("1M 2M 3m 4m", 2),
        ("1M 2m 3M 4m", 3),
        ("4m", 4),
        ("3m 4m 5m", 3),
        ("4m 2M 3m 1M", 2),
    ],
)
def test_the_required_version_is_the_newest_with_a_material_change(history: str, expected: int) -> None:
    versions = [
        published_form("n", notice(int(word[0]), Change.MATERIAL if word[1] == "M" else Change.MINOR))
        for word in history.split()
    ]

    assert expected == required_version(versions)
    document = policy_of(
        Purpose(actions=(Action.USE,), basis={"default": CONSENT}, notice="n"),
        notices={"n": notice(versions[-1].version, versions[-1].change)},
    )
    other = PublishedNotice(notice="other", version=99, change=Change.MATERIAL, hash=bytes(32))
    assert expected == compile_policy(document, [*versions[:-1], other], None, 0).purposes["p"].required_notice_version
    assert expected == compile_policy(document, [other, *versions], None, 0).purposes["p"].required_notice_version


def test_the_notice_hash_is_that_of_its_canonical_json() -> None:
    told = b'{"key":"newsletter","text":{"en":{"body":"What is new.","title":"Newsletter"}},"version":3}'

    assert hashlib.sha256(told).digest() == notice_hash("newsletter", notice(3))


def test_the_notice_hash_covers_key_version_and_text_and_nothing_else() -> None:
    assert notice_hash("a", notice(1)) == notice_hash("a", notice(1, Change.MINOR))
    different = [notice_hash("a", notice(1)), notice_hash("b", notice(1)), notice_hash("a", notice(2))]
    assert len({*different, notice_hash("a", notice(1, body="What is newer."))}) == 4


def test_only_what_was_not_published_before_is_newly_published() -> None:
    notices = {"b": notice(2), "a": notice(1)}
    known = [published_form("b", notice(1)), published_form("a", notice(1))]

    assert (published_form("b", notice(2)),) == newly_published(notices, known)
    assert (published_form("a", notice(1)), published_form("b", notice(2))) == newly_published(notices, ())


# --- canonical bytes ----------------------------------------------------------------------------------------------

keys = st.from_regex(r"[a-z0-9_.-]{1,8}", fullmatch=True)
lines = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
instants = st.integers(0, 10**11).map(lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
titles = st.dictionaries(st.sampled_from(["en", "de", "pt-BR"]), lines)
texts = st.dictionaries(
    st.sampled_from(["en", "de"]), st.builds(NoticeText, title=lines, body=lines), min_size=1, max_size=2
)
purposes = st.builds(
    Purpose,
    title=titles,
    message_class=st.none() | st.sampled_from(MessageClass),
    actions=st.lists(st.sampled_from(Action), min_size=1, max_size=4, unique=True).map(tuple),
    basis=bases,
    channels=st.lists(st.sampled_from(Channel), max_size=4, unique=True).map(tuple),
    topics=st.lists(keys, max_size=3, unique=True).map(tuple),
    notice=st.none() | keys,
    consent=st.builds(
        ConsentTerms, valid_for=st.sampled_from([None, "P24M"]), minimum_evidence=st.sampled_from(EvidenceGrade)
    ),
    active_from=st.none() | instants,
    retired_at=st.none() | instants,
)
policies = st.builds(
    Policy,
    controller=st.builds(
        Controller, name=lines, contact=st.none() | lines, establishment=st.sampled_from([None, "DE"])
    ),
    markets=st.lists(st.sampled_from(["DE", "US-CA", "EU"]), max_size=3, unique=True).map(tuple),
    languages=st.sampled_from([("en",), ("en", "de")]),
    notices=st.dictionaries(
        keys, st.builds(Notice, version=st.integers(1, 9), change=st.sampled_from(Change), text=texts), max_size=3
    ),
    purposes=st.dictionaries(keys, purposes, min_size=1, max_size=3),
    topics=st.dictionaries(keys, st.builds(Topic, title=titles), max_size=3),
    backdating_limit=st.sampled_from(["P30D", "P1Y"]),
)


@settings(deadline=None)
@given(policies)
def test_a_policy_is_read_back_from_its_bytes(policy: Policy) -> None:
    document = document_bytes(policy)

    assert policy == parse_document(document)
    assert document == document_bytes(parse_document(document))
    assert hashlib.sha256(document).digest() == document_hash(policy)


@settings(deadline=None)
@given(policies)
def test_the_bytes_are_canonical_json_of_rfc_8785(policy: Policy) -> None:
    document = document_bytes(policy)

    assert rfc8785.dumps(json.loads(document)) == document


def test_a_member_at_its_default_is_left_out_whether_or_not_it_was_written() -> None:
    terse = {"controller": {"name": "A"}, "purposes": {"p": {"actions": ["use"], "basis": {"default": "contract"}}}}
    wordy = {
        "addresses": "open",
        "backdating_limit": "P30D",
        "controller": {"name": "A", "contact": None, "establishment": None},
        "languages": ["en"],
        "markets": [],
        "notices": {},
        "purposes": {
            "p": {
                "actions": ["use"],
                "active_from": None,
                "basis": {"default": "contract"},
                "channels": [],
                "class": None,
                "consent": {"double_opt_in": False, "minimum_evidence": "E0", "valid_for": None},
                "notice": None,
                "retired_at": None,
                "title": {},
                "topics": [],
            }
        },
        "topics": {},
    }

    expected = b'{"controller":{"name":"A"},"purposes":{"p":{"actions":["use"],"basis":{"default":"contract"}}}}'
    assert expected == document_bytes(msgspec.convert(terse, Policy)) == document_bytes(msgspec.convert(wordy, Policy))


def test_one_instant_has_one_form_whatever_its_offset() -> None:
    document = b'{"controller":{"name":"A"},"purposes":{"p":{"actions":["use"],"active_from":"%s","basis":{"default":"contract"}}}}'
    here, there = document % b"2026-05-02T09:11:00+02:00", document % b"2026-05-02T07:11:00Z"

    assert there == document_bytes(parse_document(here)) == document_bytes(parse_document(there))


@pytest.mark.parametrize(
    "document", [b"", b"{}", b"[]", b'{"controller": {"name": "A"}, "caps": []}', b"\xff", b"[" * 9999]
)
def test_bytes_that_hold_no_policy_are_refused(document: bytes) -> None:
    with pytest.raises(Invalid):
        parse_document(document)


# --- the schema for editors ---------------------------------------------------------------------------------------


def test_the_schema_is_json_and_every_reference_in_it_leads_somewhere() -> None:
    schema = json_schema()
    text = json.dumps(schema)

    assert json.loads(text) == schema
    assert isinstance(schema["$defs"], dict)
    assert {f"#/$defs/{name}" for name in schema["$defs"]} == {
        part.split('"')[0] for part in text.split('"$ref": "')[1:]
    }


def test_the_schema_refuses_unknown_members_and_describes_every_type() -> None:
    definitions = json_schema()["$defs"]

    assert isinstance(definitions, dict)
    assert [name for name, one in definitions.items() if not one["description"] or "\n  " in one["description"]] == []
    assert {False} == {one["additionalProperties"] for one in definitions.values() if one.get("type") == "object"}
    assert "send" in definitions["Action"]["enum"]
    assert definitions["Purpose"]["required"] == ["actions", "basis"]
