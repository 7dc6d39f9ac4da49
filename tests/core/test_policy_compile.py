"""The compiled policy answers as the document says; its canonical bytes are one for one with the document."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from shipped_profiles import PROFILES
from volenti.core.policy.canonical import document_bytes, document_hash, parse_document
from volenti.core.policy.compile import (
    MOST_TOGETHER,
    CompiledPolicy,
    CompiledPurpose,
    Suspended,
    compile_policy,
    covers_region,
    in_force,
    rows_of,
    terms_for,
)
from volenti.core.policy.document import (
    Action,
    Activity,
    Additions,
    Addresses,
    Asking,
    Change,
    Channel,
    ConsentTerms,
    Controller,
    EvidenceGrade,
    Exemption,
    LawfulBasis,
    LogGuarantee,
    MessageClass,
    Notice,
    NoticeText,
    Override,
    Policy,
    Purpose,
    RelationTerms,
    RelationType,
    Suspension,
    Topic,
)
from volenti.core.policy.duration import Duration
from volenti.core.policy.jurisdiction import COUNTRIES, EEA, EU, is_jurisdiction, lookup_order
from volenti.core.policy.notice import PublishedNotice, newly_published, notice_hash, published_form, required_version
from volenti.core.policy.profile import Profiles
from volenti.core.policy.schema import json_schema
from volenti.core.policy.terms import Qualifying, Terms, is_stricter, merged, strictest
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


@pytest.mark.parametrize("place", ["UK", "EL", "ZZ", "ZZ-AB", "gb", "GB-", "GREAT BRITAIN", "default"])
@pytest.mark.parametrize(
    ("rows", "markets", "expected"),
    [
        ({"default": INTEREST, "GB": CONSENT}, ("GB", "US"), CONSENT),
        ({"default": CONSENT, "US": OPT_OUT}, ("US",), CONSENT),
        ({"default": OPT_OUT, "GB": INTEREST}, (), OPT_OUT),
    ],
)
def test_what_is_no_code_of_a_place_has_the_strictest_rule_of_the_markets_and_elsewhere(
    place: str, rows: dict[str, LawfulBasis], markets: tuple[str, ...], expected: LawfulBasis
) -> None:
    purpose = compiled(rows, markets=markets)

    assert expected == basis_for(purpose, (place,))
    assert strictest((expected, OPT_OUT)) == basis_for(compiled(rows | {"JP": OPT_OUT}, markets=markets), ("JP", place))


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


def test_a_purpose_has_what_the_policy_says_of_its_data_and_relatives() -> None:
    listed = Purpose(
        actions=(Action.SEND,),
        basis={"default": CONSENT},
        topics=("news",),
        data=("contact",),
        recipients=("mailer",),
        regions=("EU", "US-CA", "BR"),
        retention="P36M",
        sensitive=True,
        consent=ConsentTerms(double_opt_in=True),
        relations={RelationType.PURCHASE: "P24M"},
        exempt=(Exemption.CAPS,),
        log_guarantee=LogGuarantee.REQUIRED,
    )
    scores = Purpose(actions=(Action.PROFILE,), basis={"default": INTEREST}, serves="p")
    document = Policy(
        controller=Controller(name="Acme GmbH"),
        addresses=Addresses.MANAGED,
        suspend=Suspension(workspace=True, purposes=("p",), channels=(Channel.SMS,)),
        asking=Asking(cooldown="P30D", per_quarter=4),
        purposes={"p": listed, "z": scores, "a": scores},
        topics={
            "news": Topic(),
            "offers": Topic(parent="news"),
            "sale": Topic(parent="offers"),
            "other": Topic(),
            "loop": Topic(parent="loop"),
        },
    )

    policy = compile_policy(document, (), None, 0)
    purpose = policy.purposes["p"]

    assert purpose.topics == {"news", "offers", "sale"}
    assert (sorted(purpose.data), sorted(purpose.recipients)) == (["contact"], ["mailer"])
    assert [covers_region(purpose, place) for place in ("EU", "DE", "DE-BY", "US-CA", "BR", "BR-SP")] == [True] * 6
    assert [covers_region(purpose, place) for place in ("EEA", "NO", "US", "US-TX", "CH")] == [False] * 5
    wider = compile_policy(policy_of(msgspec.structs.replace(listed, regions=("EEA",))), (), None, 0).purposes["p"]
    assert [covers_region(wider, place) for place in ("EEA", "EU", "NO", "DE", "GB")] == [True] * 4 + [False]
    texts = ("DENMARK", "DE-X; and China", "EUROPE-AND-CHINA", "EU-BY", "de", "BR-", "")
    assert [covers_region(purpose, text) for text in texts] == [False] * 7
    assert (purpose.retention, purpose.sensitive, purpose.double_opt_in) == (Duration(months=36), True, True)
    assert (purpose.relations, [*purpose.exempt]) == ({RelationType.PURCHASE: Duration(months=24)}, ["caps"])
    assert (purpose.log_guarantee, policy.purposes["a"].log_guarantee) == ("required", "best_effort")
    assert (purpose.serves, purpose.served_by, policy.purposes["a"].serves) == (None, ("a", "z"), "p")
    assert policy.suspended == Suspended(workspace=True, purposes=frozenset({"p"}), channels=frozenset({Channel.SMS}))
    assert (policy.asking.cooldown, policy.asking.per_quarter) == (Duration(days=30), 4)
    assert (policy.addresses, policy.changes_at_ms) == ("managed", None)


def test_a_policy_that_switches_nothing_off_and_limits_nothing_says_so() -> None:
    policy = compile_policy(policy_of(Purpose(actions=(Action.USE,), basis={"default": CONSENT})), (), None, 0)

    assert policy.suspended == Suspended(workspace=False, purposes=frozenset(), channels=frozenset())
    assert (policy.asking.cooldown, policy.asking.per_quarter, policy.addresses) == (None, None, "open")


# --- the jurisdiction profiles ------------------------------------------------------------------------------------

NOW = 1_795_478_400_000  # 2026-11-24
YEAR = 31_557_600_000


def under_law(
    purpose: Purpose,
    *,
    markets: tuple[str, ...] = (),
    overrides: dict[str, dict[str, Override]] | None = None,
    at_ms: int = NOW,
) -> CompiledPurpose:
    policy = msgspec.structs.replace(
        policy_of(purpose, markets=markets), jurisdictions="2026.11", overrides=overrides or {}
    )
    return compile_policy(policy, (), PROFILES, at_ms).purposes["p"]


def sending(basis: dict[str, LawfulBasis], **members: object) -> Purpose:
    return msgspec.structs.replace(
        Purpose(
            message_class=MessageClass.MARKETING,
            actions=(Action.SEND, Action.USE),
            basis=basis,
            channels=(Channel.EMAIL, Channel.SMS, Channel.VOICE, Channel.PUSH, Channel.INAPP),
        ),
        **members,
    )


SOFT = LawfulBasis.SOFT_OPT_IN


@pytest.mark.parametrize(
    ("basis", "channel", "places", "expected"),
    [
        (OPT_OUT, "email", ("DE",), "soft_opt_in"),
        (OPT_OUT, "email", ("US",), "opt_out"),
        (OPT_OUT, "email", ("US-CA",), "opt_out"),
        (OPT_OUT, "email", ("US", "DE"), "soft_opt_in"),
        (OPT_OUT, "sms", ("US",), "consent"),
        (OPT_OUT, "voice", ("GB",), "opt_out"),
        (OPT_OUT, "voice", ("FR",), "consent"),
        (OPT_OUT, "push", ("GB",), "consent"),
        (OPT_OUT, "inapp", ("DE",), "opt_out"),
        (OPT_OUT, "email", ("JP",), "consent"),
        (OPT_OUT, "email", ("EU",), "soft_opt_in"),
        (OPT_OUT, "email", ("EEA",), "soft_opt_in"),
        (OPT_OUT, "whatsapp", ("EU",), "opt_out"),
        (CONTRACT, "email", ("IN",), "consent"),
        (CONSENT, "email", ("US",), "consent"),
        (LawfulBasis.PROHIBITED, "email", ("US",), "prohibited"),
        (OPT_OUT, None, ("US",), "consent"),
        (OPT_OUT, None, ("GB",), "consent"),
    ],
)
def test_marketing_has_the_stricter_of_its_own_basis_and_the_row_of_its_channel(
    basis: LawfulBasis, channel: str | None, places: tuple[str, ...], expected: str
) -> None:
    purpose = under_law(sending({"default": basis}))

    if channel == "whatsapp":  # a channel that the purpose does not have: as strict as the strictest that it has
        assert terms_for(purpose, Action.SEND, Channel.WHATSAPP, places).basis == "consent"
    else:
        found = terms_for(purpose, Action.SEND, None if channel is None else Channel(channel), places)
        assert found.basis == expected


def test_a_send_without_a_channel_has_the_strictest_terms_of_all_where_nobody_knows_the_place_either() -> None:
    purpose = under_law(sending({"default": OPT_OUT}))
    each = [terms_for(purpose, Action.SEND, channel, ()) for channel in sorted(purpose.channels)]
    assert terms_for(purpose, Action.SEND, None, ()) == merged(each)


@pytest.mark.parametrize("message_class", [MessageClass.SERVICE, MessageClass.TRANSACTIONAL, None])
def test_what_is_no_marketing_meets_the_rows_of_channels_only_when_a_message_is(
    message_class: MessageClass | None,
) -> None:
    purpose = under_law(sending({"default": CONTRACT}, message_class=message_class))

    assert terms_for(purpose, Action.SEND, Channel.SMS, ("DE",)).basis == "contract"
    assert terms_for(purpose, Action.SEND, Channel.SMS, ("DE",), as_marketing=True).basis == "soft_opt_in"
    assert terms_for(purpose, Action.SEND, Channel.SMS, ("US",), as_marketing=True).basis == "consent"


@pytest.mark.parametrize(
    ("action", "activity", "sensitive", "place", "expected"),
    [
        ("sell", None, False, "US-CA", "opt_out"),
        ("share", None, False, "DE", "consent"),
        ("share", Activity.ANALYTICS, False, "CA", "consent"),
        ("automate", Activity.AI_DECISIONING, False, "DE", "consent"),
        ("automate", None, False, "GB", "opt_out"),
        ("automate", None, True, "GB", "consent"),
        ("use", Activity.AI_DECISIONING, False, "DE", "legitimate_interest"),
        ("use", Activity.ANALYTICS, False, "DE", "consent"),
        ("use", Activity.ANALYTICS, False, "CA", "opt_out"),
        ("use", Activity.ANALYTICS, False, "CA-QC", "consent"),
        ("profile", Activity.PROFILING, False, "DE", "legitimate_interest"),
        ("profile", Activity.PERSONALISATION, False, "IN", "consent"),
        ("profile", Activity.ADVERTISING, False, "FR", "consent"),
        ("profile", Activity.ADVERTISING, False, "US-TX", "opt_out"),
        ("profile", None, False, "DE", "legal_obligation"),
        ("use", None, True, "US", "opt_out"),
        ("use", None, True, "US-CO", "consent"),
        ("sell", None, True, "US-MD", "prohibited"),
        ("share", None, True, "US-MD", "consent"),
        ("sell", None, False, "US-MD", "opt_out"),
        ("retain", None, False, "DE", "legal_obligation"),
    ],
)
def test_what_is_not_sent_meets_the_row_of_the_action_or_of_the_activity_and_that_of_sensitive_data(
    action: str, activity: Activity | None, sensitive: bool, place: str, expected: str
) -> None:
    purpose = Purpose(actions=(Action(action),), basis={"default": LAW}, activity=activity, sensitive=sensitive)

    assert expected == terms_for(under_law(purpose), Action(action), None, (place,)).basis


def test_an_action_that_the_purpose_lacks_has_the_purposes_own_basis() -> None:
    purpose = under_law(Purpose(actions=(Action.USE,), basis={"default": INTEREST}))

    assert terms_for(purpose, Action.SELL, None, ("DE",)).basis == "legitimate_interest"
    assert terms_for(purpose, Action.SEND, Channel.SMS, ("DE",)).basis == "legitimate_interest"


def test_what_is_remembered_of_several_places_is_right_and_ends_however_many_are_named() -> None:
    ads = under_law(Purpose(actions=(Action.SHARE,), basis={"default": CONSENT}))
    table = ads.terms[Action.SHARE, None]

    for _ in range(2):
        for number in range(MOST_TOGETHER + 5):
            places = ("IN", f"US-{number}")
            alone = [terms_for(ads, Action.SHARE, None, (place,)) for place in places]
            assert terms_for(ads, Action.SHARE, None, places) == merged(alone)
    assert len(table.together) == MOST_TOGETHER


def test_the_terms_of_a_place_are_those_of_its_profile() -> None:
    ads = under_law(Purpose(actions=(Action.SHARE,), basis={"default": CONSENT}))
    ai = under_law(Purpose(actions=(Action.AUTOMATE,), basis={"default": CONSENT}))
    cookies = under_law(Purpose(actions=(Action.USE,), basis={"default": CONSENT}, activity=Activity.ANALYTICS))

    assert terms_for(ads, Action.SHARE, None, ("US-CA",)) == Terms(
        basis=CONSENT,
        age_of_consent=13,
        age_of_sale=16,
        reask_lock=Duration(months=12),
        minor_lock_age=16,
        signal_exception=True,
    )
    assert terms_for(ads, Action.SHARE, None, ("IN",)).minors_prohibited_below == 18
    assert terms_for(ads, Action.SHARE, None, ("US-CA", "IN")) == Terms(
        basis=CONSENT,
        age_of_consent=18,
        age_of_sale=16,
        minors_prohibited_below=18,
        reask_lock=Duration(months=12),
        minor_lock_age=16,
    )
    german = terms_for(ai, Action.AUTOMATE, None, ("DE",))
    assert (german.human_review, german.show_notice, german.age_of_sale) == (True, False, None)
    assert (german.consent_expiry, german.reask_lock) == (Duration(months=24), Duration(months=6))
    assert terms_for(ai, Action.AUTOMATE, None, ("CA-QC",)).show_notice
    assert terms_for(cookies, Action.USE, None, ("FR",)).consent_expiry == Duration(months=6)
    assert terms_for(cookies, Action.USE, None, ("FR", "DE")).consent_expiry == Duration(months=6)
    assert terms_for(cookies, Action.USE, None, ("US",)).consent_expiry is None
    assert terms_for(cookies, Action.USE, None, ("US", "JP")).consent_expiry == Duration(months=12)


OWN = {RelationType.PURCHASE: "P12M", RelationType.INQUIRY: "P12M", RelationType.DONATION: "P12M"}


@pytest.mark.parametrize(
    ("places", "at_ms", "expected"),
    [
        (("DE",), NOW, {"purchase": "P12M"}),
        (("GB",), NOW, {"purchase": "P12M", "inquiry": "P12M", "donation": "P12M since"}),
        (("GB",), NOW - YEAR, {"purchase": "P12M", "inquiry": "P12M"}),
        (("CA",), NOW, {"purchase": "P12M", "inquiry": "P6M", "donation": "P12M"}),
        (("CA", "GB"), NOW, {"purchase": "P12M", "inquiry": "P6M", "donation": "P12M since"}),
        (("CA", "DE"), NOW, {"purchase": "P12M"}),
        (("US",), NOW, {"purchase": "P12M", "inquiry": "P12M", "donation": "P12M"}),
    ],
)
def test_a_tie_qualifies_where_the_law_and_the_purpose_both_say_so_for_the_shorter_time(
    places: tuple[str, ...], at_ms: int, expected: dict[str, str]
) -> None:
    purpose = under_law(sending({"default": SOFT}, relations=OWN), at_ms=at_ms)
    since = {"P12M": Qualifying(max_age=Duration(months=12)), "P6M": Qualifying(max_age=Duration(months=6))}
    since["P12M since"] = Qualifying(max_age=Duration(months=12), collected_since_ms=1_770_249_600_000)

    found = terms_for(purpose, Action.SEND, Channel.EMAIL, places).relations

    assert {kind: since[rule] for kind, rule in expected.items()} == found


def test_without_a_profile_the_purposes_own_ties_qualify_and_nothing_else_binds() -> None:
    purpose = compile_policy(policy_of(sending({"default": SOFT}, relations=OWN)), (), None, NOW).purposes["p"]

    assert terms_for(purpose, Action.SEND, Channel.EMAIL, ("DE",)) == Terms(
        basis=SOFT, relations={kind: Qualifying(max_age=Duration(months=12)) for kind in OWN}
    )


def test_a_policy_without_relations_has_no_tie_that_qualifies() -> None:
    assert terms_for(under_law(sending({"default": SOFT})), Action.SEND, Channel.EMAIL, ("US",)).relations == {}


def test_an_override_stands_in_place_of_the_profiles_value_there_and_in_what_looks_there() -> None:
    purpose = under_law(
        sending({"default": OPT_OUT}),
        overrides={
            "EU": {"email_marketing": Override(value="consent")},
            "US": {"email_marketing": Override(value="consent"), "consent_expiry": Override(value="P36M")},
            "GB": {"email_marketing": Override(value="opt_out", because="counsel"), "age_of_consent": Override(value="none")},
            "default": {"reask_lock": Override(value="P24M")},
        },
    )  # fmt: skip

    def by_email(*places: str) -> Terms:
        return terms_for(purpose, Action.SEND, Channel.EMAIL, places)

    assert (by_email("FI").basis, by_email("DE").basis, by_email("NO").basis) == (CONSENT, SOFT, SOFT)
    assert (by_email("US-TX").basis, by_email("US-CA").consent_expiry) == (CONSENT, Duration(months=36))
    assert (by_email("GB").basis, by_email("GB").age_of_consent) == (OPT_OUT, None)
    assert (by_email("JP").reask_lock, by_email("US").reask_lock) == (Duration(months=24), None)


@pytest.mark.parametrize(
    ("jurisdictions", "profiles"), [("2026.11", None), ("2026.12", PROFILES)], ids=["none given", "another version"]
)
def test_a_policy_never_compiles_without_the_profiles_that_it_names(
    jurisdictions: str, profiles: Profiles | None
) -> None:
    policy = msgspec.structs.replace(policy_of(sending({"default": SOFT})), jurisdictions=jurisdictions)

    with pytest.raises(Invalid, match=f"needs the jurisdiction profiles {jurisdictions}"):
        compile_policy(policy, (), profiles, NOW)


def test_an_override_that_cannot_be_used_does_not_compile() -> None:
    with pytest.raises(Invalid, match="reask_lock must be a duration"):
        under_law(sending({"default": SOFT}), overrides={"DE": {"reask_lock": Override(value="soon")}})


def test_profiles_that_the_policy_does_not_name_do_not_bind() -> None:
    policy = compile_policy(policy_of(sending({"default": OPT_OUT})), (), PROFILES, NOW)

    assert terms_for(policy.purposes["p"], Action.SEND, Channel.SMS, ("DE",)) == Terms(basis=OPT_OUT)
    assert policy.changes_at_ms is None


def test_a_compiled_policy_says_until_when_it_is_right() -> None:
    document = msgspec.structs.replace(policy_of(sending({"default": OPT_OUT})), jurisdictions="2026.11")

    def until(at_ms: int) -> CompiledPolicy:
        return compile_policy(document, (), PROFILES, at_ms)

    first = until(1_786_406_399_999)  # a millisecond before 2026-08-11, when France asked for consent to calls
    assert first.changes_at_ms == 1_786_406_400_000
    assert until(1_786_406_400_000).changes_at_ms == 1_796_860_800_000  # 2026-12-10, Australia's notices
    assert until(NOW + 9 * YEAR).changes_at_ms is None


law_rows = st.dictionaries(
    st.sampled_from(["US", "US-CA", "DE", "NO", "EU", "GB", "CA-QC"]), st.sampled_from(LawfulBasis), max_size=3
).map(lambda rows: {"default": CONTRACT, **rows})
law_places = st.sampled_from(["US", "US-CA", "US-CO", "DE", "FR", "NO", "GB", "CH", "CA-QC", "IN", "AU", "EU", "JP-13"])
asked = st.sampled_from(
    [(Action.SEND, channel) for channel in (Channel.EMAIL, Channel.SMS, Channel.INAPP, None)]
    + [(Action.USE, None), (Action.SHARE, None)]
)


@settings(deadline=None, max_examples=30)
@given(law_rows, st.lists(law_places, min_size=1, max_size=3), law_places, asked)
def test_under_the_law_one_more_place_never_permits_more_and_no_law_is_below_the_purposes_own_basis(
    rows: dict[str, LawfulBasis], some: list[str], more: str, question: tuple[Action, Channel | None]
) -> None:
    purpose, without = under_law(sending(rows, activity=Activity.ANALYTICS)), compiled(rows)
    before = terms_for(purpose, *question, tuple(some))
    after = terms_for(purpose, *question, (*some, more))

    assert after == merged((before, terms_for(purpose, *question, (more,))))
    assert not is_stricter(before.basis, after.basis)
    assert not is_stricter(basis_for(without, tuple(some)), before.basis)


@settings(deadline=None, max_examples=30)
@given(law_rows, st.lists(law_places, min_size=1, max_size=3), asked)
def test_of_an_unknown_place_all_that_any_market_demands_is_demanded(
    rows: dict[str, LawfulBasis], markets: list[str], question: tuple[Action, Channel | None]
) -> None:
    purpose = under_law(sending(rows, relations=OWN), markets=tuple(markets))
    unknown = terms_for(purpose, *question, ())

    for market in markets:
        assert unknown == merged((unknown, terms_for(purpose, *question, (market,))))


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


def test_what_older_grants_do_not_cover_is_what_the_versions_since_the_required_one_add() -> None:
    def version(number: int, change: Change, *recipients: str) -> PublishedNotice:
        adds = Additions(recipients=recipients, data=("clicks",) if recipients else ())
        return published_form("n", msgspec.structs.replace(notice(number, change), adds=adds))

    history = [
        version(1, Change.MATERIAL),
        version(2, Change.EXTENDS, "old"),
        version(3, Change.MATERIAL),
        version(6, Change.EXTENDS, "v2", "v3"),
        version(4, Change.EXTENDS, "v1"),
        version(5, Change.MINOR),
    ]
    document = policy_of(
        Purpose(actions=(Action.USE,), basis={"default": CONSENT}, notice="n"), notices={"n": notice(7, Change.MINOR)}
    )

    purpose = compile_policy(document, history, None, 0).purposes["p"]

    assert purpose.required_notice_version == 3
    assert [(one.version, sorted(one.recipients), sorted(one.data)) for one in purpose.extensions] == [
        (4, ["v1"], ["clicks"]),
        (6, ["v2", "v3"], ["clicks"]),
    ]


def test_a_purpose_without_a_notice_has_no_version_that_extends_it() -> None:
    assert compiled({"default": CONTRACT}).extensions == ()


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
    data=st.lists(keys, max_size=2, unique=True).map(tuple),
    recipients=st.lists(keys, max_size=2, unique=True).map(tuple),
    regions=st.sampled_from([(), ("EU", "US-CA")]),
    retention=st.sampled_from([None, "P36M"]),
    activity=st.none() | st.sampled_from(Activity),
    serves=st.none() | keys,
    sensitive=st.booleans(),
    relations=st.dictionaries(st.sampled_from(RelationType), st.sampled_from(["P24M", "P6M"]), max_size=2),
    exempt=st.lists(st.sampled_from(Exemption), max_size=2, unique=True).map(tuple),
    log_guarantee=st.sampled_from(LogGuarantee),
    active_from=st.none() | instants,
    retired_at=st.none() | instants,
)
overrides = st.builds(
    Override,
    value=st.sampled_from(
        ["consent", "P6M", 16, True, False, {RelationType.DONATION: RelationTerms(since="2026-02-05")}]
    ),
    because=st.none() | lines,
)
policies = st.builds(
    Policy,
    controller=st.builds(
        Controller, name=lines, contact=st.none() | lines, establishment=st.sampled_from([None, "DE"])
    ),
    markets=st.lists(st.sampled_from(["DE", "US-CA", "EU"]), max_size=3, unique=True).map(tuple),
    languages=st.sampled_from([("en",), ("en", "de")]),
    addresses=st.sampled_from(Addresses),
    jurisdictions=st.sampled_from([None, "2026.11"]),
    overrides=st.dictionaries(
        st.sampled_from(["DE", "default"]),
        st.dictionaries(st.sampled_from(["analytics", "consent_expiry.analytics"]), overrides, max_size=2),
        max_size=2,
    ),
    suspend=st.builds(Suspension, workspace=st.booleans(), channels=st.sampled_from([(), (Channel.SMS,)])),
    asking=st.builds(Asking, cooldown=st.sampled_from([None, "P30D"]), per_quarter=st.none() | st.integers(1, 9)),
    notices=st.dictionaries(
        keys,
        st.builds(
            Notice,
            version=st.integers(1, 9),
            change=st.sampled_from(Change),
            adds=st.builds(Additions, recipients=st.lists(keys, max_size=2).map(tuple)),
            text=texts,
        ),
        max_size=3,
    ),
    purposes=st.dictionaries(keys, purposes, min_size=1, max_size=3),
    topics=st.dictionaries(keys, st.builds(Topic, title=titles, parent=st.none() | keys), max_size=3),
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


@pytest.mark.parametrize(
    ("action", "channel", "marketing", "activity", "sensitive", "rows"),
    [
        (Action.SEND, Channel.EMAIL, True, None, False, ("email_marketing",)),
        (Action.SEND, Channel.EMAIL, True, None, True, ("email_marketing", "sensitive")),
        (Action.SEND, Channel.EMAIL, False, None, True, ("sensitive",)),
        (Action.SELL, None, False, None, False, ("sale_share",)),
        (Action.SELL, None, False, None, True, ("sale_share", "sensitive", "sensitive_sale")),
        (Action.SHARE, None, False, None, True, ("sale_share", "sensitive")),
        (Action.USE, None, True, "analytics", True, ("analytics", "sensitive")),
        (Action.USE, None, True, None, False, ()),
    ],
)
def test_sensitive_data_bring_their_rows_along_beside_the_first(
    action: Action, channel: Channel | None, marketing: bool, activity: str | None, sensitive: bool, rows: tuple[str, ...]
) -> None:  # fmt: skip
    document = {"actions": [action], "basis": {"default": "consent"}, "activity": activity, "sensitive": sensitive}
    purpose = msgspec.convert({name: value for name, value in document.items() if value is not None}, Purpose)
    assert rows_of(purpose, action, channel, marketing=marketing) == rows
