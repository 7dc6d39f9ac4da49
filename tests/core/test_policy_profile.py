"""The shipped jurisdiction profiles say what the table of the design says, and are read strictly."""

import hashlib
from datetime import UTC, datetime

import msgspec
import pytest

from shipped_profiles import FILE, PROFILES
from volenti.core.policy.cell import CELLS, ROWS, read_value, shown
from volenti.core.policy.jurisdiction import DEFAULT, EEA, lookup_order
from volenti.core.policy.page import jurisdiction_page
from volenti.core.policy.profile import change_instants, nearest, next_change_ms, parse_profiles, rows_at
from volenti.errors import Invalid

FROZEN = {"2026.11.yaml": "364abd0f5932d502ee03483e5c191360283bb98ee5faa056ecbe7f7b5e4fdd42"}


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = ms("2026-11-24")


def value(place: str, key: str, at_ms: int = NOW) -> str:
    """What binds in a place, as it is written; “–” if nothing does."""
    found = nearest(rows_at(PROFILES, at_ms), lookup_order(place), (key, key.partition(".")[0]), absent="–")
    return found if found == "–" else shown(found)


def test_a_version_that_a_published_policy_may_name_never_changes() -> None:
    """What is wrong in it is put right in a new version, in a file of its own."""
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILE.parent.iterdir()} == FROZEN


# D consent, P opt_out, S soft_opt_in, L legitimate_interest: the tables of the design, one column a place.
TABLE = """
                       FI DE FR GB US US-CA US-CO CA CA-QC BR IN AU JP
email_marketing        S  S  S  S  P  P     P     S  S     S  D  S  D
sms_marketing          S  S  S  S  D  D     D     S  S     D  D  S  D
whatsapp_marketing     S  D  S  S  D  D     D     S  S     D  D  S  D
phone_marketing        D  D  D  P  P  P     P     P  P     D  D  P  D
push_marketing         D  D  D  D  P  P     P     D  D     D  D  D  D
analytics              D  D  D  D  P  P     P     P  D     D  D  P  D
personalisation        L  L  L  L  P  P     P     P  D     L  D  P  D
sale_share             D  D  D  D  P  P     P     D  D     D  D  P  D
sensitive              D  D  D  D  P  P     D     D  D     D  D  D  D
ai_decisions           L  L  L  L  P  P     P     P  P     P  D  P  D
significant_decisions  D  D  D  P  P  P     P     D  D     D  D  P  D
"""
LETTERS = {"D": "consent", "P": "opt_out", "S": "soft_opt_in", "L": "legitimate_interest"}


def test_every_cell_of_the_table_of_bases_is_in_the_data() -> None:
    (places, *lines) = [line.split() for line in TABLE.strip().splitlines()]
    expected = {
        (key, place): LETTERS[letter] for key, *letters in lines for place, letter in zip(places, letters, strict=True)
    }

    assert {row for row, _ in expected} == set(ROWS) - {"sensitive_sale"}
    assert {(key, place): value(place, key) for key, place in expected} == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("consent_expiry", "FI P24M, DE P24M, FR P24M, GB P24M, US none, US-CA none, US-CO none, CA none, BR P24M, IN none, AU none, JP P12M"),
        ("consent_expiry.email_marketing", "FI P24M, FR P36M, US none, JP P12M"),
        ("consent_expiry.analytics", "FI P24M, FR P6M, GB P24M, JP P12M"),
        ("reask_lock", "FI P6M, DE P6M, FR P6M, GB P6M, US none, US-CA P12M, US-CO P12M, CA P6M, BR P6M, IN P6M, AU P6M, JP P12M"),
        ("age_of_consent", "FI 13, DE 16, FR 15, GB 13, US 13, US-CA 13, CA 13, CA-QC 14, BR 12, IN 18, AU 15, JP 16"),
        ("age_of_consent", "BE 13, DK 13, EE 13, LV 13, MT 13, PT 13, SE 13, IS 13, NO 13, AT 14, BG 14, CY 14, ES 14, IT 14, LT 14"),
        ("age_of_consent", "CZ 15, GR 15, SI 15, HR 16, HU 16, IE 16, LU 16, NL 16, PL 16, RO 16, SK 16, LI 16"),
        ("age_of_sale", "US 13, US-CA 16, US-CO 18, US-NY 18, DE –"),
        ("minor_lock_age", "US-CA 16, US –"),
        ("minors_prohibited_below.sale_share", "IN 18, US-MD 18, US –, DE –"),
        ("sensitive_sale", "US-MD prohibited, US-CA –, DE –"),
        ("signal_exception", "US-CA true, US –, US-CO –, DE –"),
        ("human_review.significant_decisions", "DE true, GB true, BR true, CA-QC true, US –, AU –"),
        ("show_notice.ai_decisions", "CA-QC true, CA –"),
        ("relations", "DE purchase, contract; FR purchase for P36M, contract for P36M; AU purchase for P24M, contract for P24M"),
        ("relations", "CA purchase for P24M, contract for P24M, inquiry for P6M, donation for P24M"),
        ("double_opt_in", "FI recommended, DE recommended, FR optional, GB optional, US sms_confirmation, CA optional, BR optional, JP recommended"),
        ("phone_hours", "FI mon-sun 08:00-21:00; DE mon-sun 08:00-20:00; FR mon-fri 10:00-13:00, mon-fri 14:00-20:00, not on holidays; US mon-sun 08:00-21:00"),
        ("phone_hours", "US-TX mon-sat 09:00-21:00, sun 12:00-21:00; US-AL mon-sat 08:00-20:00, not on holidays; JP mon-sun 09:00-20:00"),
        ("sms_hours", "FR mon-sat 08:00-20:00, not on holidays; CA mon-fri 09:00-21:30, sat-sun 10:00-18:00; AU mon-sun 09:00-20:00"),
        ("push_quiet", "FI 22:00-07:00, GB 22:00-07:00, US 22:00-07:00, IN 22:00-07:00, JP 21:00-08:00"),
        ("grace", "DE without delay, US 10 business days, CA 10 business days, AU 5 business days, BR immediate, IN reasonable, JP P2D"),
        ("grace.sale_share", "US-CA 15 business days, US-CO 15 business days"),
        ("grace_one_click", "DE P2D, GB P2D"),
        ("request_clock", "DE P1M, GB P1M, US none, US-CA P45D, US-CO P45D, CA P30D, BR P15D, IN P90D, AU P30D, JP P1M"),
        ("proof_retention", "DE P3Y, FR P3Y, GB P6Y, US P5Y, US-CA P24M, US-CO P24M, CA P3Y, BR P5Y, IN P7Y, AU P3Y, JP P3Y"),
        ("proof_retention.phone_marketing", "DE P5Y, FR P3Y"),
        ("gpc", "US-CA required, US-TX required, US honoured, DE honoured, JP honoured"),
    ],
)  # fmt: skip
def test_every_other_cell_of_the_table_is_in_the_data(key: str, expected: str) -> None:
    cells = [cell.split(" ", 1) for cell in expected.split("; " if ";" in expected or key == "relations" else ", ")]

    assert {place: value(place, key) for place, _ in cells} == dict(cells)


def test_what_is_merged_has_a_value_everywhere() -> None:
    """So that no place is without a rule because somebody forgot it: the default answers."""
    for key in (*ROWS.keys() - {"sensitive_sale"}, "consent_expiry", "reask_lock", "age_of_consent", "double_opt_in"):
        assert [row for row in PROFILES.rows if (row.jurisdiction, row.key) == (DEFAULT, key)], key


def test_every_member_state_has_an_age_of_its_own() -> None:
    with_age = {row.jurisdiction for row in PROFILES.rows if row.key == "age_of_consent"}

    assert with_age >= EEA


@pytest.mark.parametrize(
    ("place", "key", "day", "before", "after"),
    [
        ("GB", "relations", "2026-02-05", "purchase, contract, inquiry", "purchase, contract, inquiry, donation since 2026-02-05"),
        ("US-CO", "gpc", "2024-07-01", "honoured", "required"),
        ("US-OR", "gpc", "2026-01-01", "honoured", "required"),
        ("US-NY", "age_of_sale", "2025-06-20", "13", "18"),
        ("AU", "show_notice.ai_decisions", "2026-12-10", "–", "true"),
        ("US-CA", "show_notice.significant_decisions", "2027-01-01", "–", "true"),
        ("US", "revocation_scope", "2027-01-31", "all_marketing", "all_robo"),
    ],
)  # fmt: skip
def test_a_row_holds_from_its_day_on_and_not_a_millisecond_before(
    place: str, key: str, day: str, before: str, after: str
) -> None:
    assert (before, after) == (value(place, key, ms(day) - 1), value(place, key, ms(day)))
    assert next_change_ms(PROFILES, ms(day) - 1) == ms(day)
    assert ms(day) in change_instants(PROFILES)


def test_after_the_last_dated_row_nothing_changes_any_more() -> None:
    last = max(change_instants(PROFILES))

    assert next_change_ms(PROFILES, last - 1) == last
    assert next_change_ms(PROFILES, last) is None
    assert next_change_ms(parse_profiles(document("")), 0) is None
    assert change_instants(parse_profiles(document(""))) == (0,)


def test_the_first_of_the_periods_lies_before_every_dated_row() -> None:
    first, *_ = change_instants(PROFILES)

    assert value("US-CA", "gpc", first) == "honoured"
    assert value("US-WA", "phone_hours", first) == "mon-sun 08:00-21:00"


# --- reading ------------------------------------------------------------------------------------------------------

ROW = "- {jurisdiction: DE, key: reask_lock, value: P6M, source: s, confidence: policy}"


def document(rows: str) -> str:
    return f'version: "2027.02"\nrows: {"[]" if not rows else ""}\n{rows}\n'


def test_a_row_may_name_several_places_and_keys_that_share_the_rest() -> None:
    row = '- {jurisdiction: [IS, "NO"], key: [analytics, personalisation], value: consent, source: s, confidence: primary, note: n}'
    profiles = parse_profiles(document(row))

    assert [(one.jurisdiction, one.key, one.note) for one in profiles.rows] == [
        ("IS", "analytics", "n"),
        ("IS", "personalisation", "n"),
        ("NO", "analytics", "n"),
        ("NO", "personalisation", "n"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reask_lock", "reask_log", "line 3: unknown key “reask_log”: did you mean “reask_lock”?"),
        ("reask_lock", "age_of_sale.analytics", "unknown key “age_of_sale.analytics”"),
        ("reask_lock", "reask_lock.email", "unknown key “reask_lock.email”"),
        ("jurisdiction: DE", "jurisdiction: UK", "line 3: “UK” is no ISO 3166 code"),
        ("value: P6M", "value: six months", "line 3: reask_lock must be a duration such as P6M, or none"),
        ("value: P6M", "value: P0M", "reask_lock must be a duration"),
        ("value: P6M", "value: 6", "reask_lock must be a duration"),
        ("source: s, ", "", "source"),
        ("source: s", 'source: ""', "source"),
        ("confidence: policy", "confidence: sure", "confidence"),
        (", confidence: policy", "", "confidence"),
        ("confidence: policy", "confidence: policy, remark: n", "remark"),
        ("confidence: policy", "confidence: policy, valid_from: 2026-02-30", "valid_from"),
        (
            "confidence: policy",
            "confidence: policy, valid_from: 2026-02-02, valid_until: 2026-02-02",
            "line 3: valid_until must be later than valid_from",
        ),
        ('"2027.02"', '"next"', "version"),
        ("rows:", "rows", "line"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_with_the_place_and_the_reason(
    old: str, new: str, message: str
) -> None:
    assert document(ROW).count(old) == 1

    with pytest.raises(Invalid) as refused:
        parse_profiles(document(ROW).replace(old, new))

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("", "", True),
        (", valid_until: 2026-02-05", ", valid_from: 2026-02-05", False),
        (", valid_from: 2026-02-05", ", valid_until: 2026-02-05", False),
        (", valid_until: 2026-02-06", ", valid_from: 2026-02-05", True),
        (
            ", valid_from: 2026-01-01, valid_until: 2026-03-01",
            ", valid_from: 2026-02-01, valid_until: 2026-02-02",
            True,
        ),
        (", valid_from: 2026-01-01", "", True),
    ],
)
def test_one_cell_never_has_two_values_at_the_same_time(first: str, second: str, overlap: bool) -> None:
    text = document("\n".join(ROW.replace("}", f"{period}}}") for period in (first, second)))

    if overlap:
        with pytest.raises(Invalid, match="line 4: reask_lock of DE has two values at the same time"):
            parse_profiles(text)
    else:
        assert len(parse_profiles(text).rows) == 2


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("analytics", ["consent", "prohibited"], ["yes", 1, None, ["consent"]]),
        ("consent_expiry", ["P24M", "none"], ["P0D", 24, True, None]),
        ("age_of_consent", [13, 30, 1, "none"], [0, 31, "13", True, None]),
        ("human_review", [True, False], ["true", 1, None]),
        ("signal_exception", [True, False], ["true", 0]),
        ("relations", ["any", {}, {"purchase": {}}, {"donation": {"since": "2026-02-05", "max_age": "P1Y"}}],
         ["none", {"purchase": "P1M"}, {"friend": {}}, {"purchase": {"age": "P1M"}}, {"purchase": {"max_age": "P0D"}}, {"purchase": {"since": "2026-02-30"}}, []]),
        ("double_opt_in", ["recommended", "optional"], ["always", True, None]),
        ("gpc", ["required", "honoured"], ["ignored"]),
        ("phone_hours", [{"windows": ["mon 08:00-21:00"]}, {"windows": ["sat-sun 10:00-18:00"], "holidays": False}],
         [{}, {"windows": []}, {"windows": ["mon 8-21"]}, {"windows": ["day 08:00-21:00"]}, {"windows": ["mon 08:00-24:00"]}, "always"]),
        ("push_quiet", ["22:00-07:00"], ["22-7", "22:00-07:00\n", 22]),
        ("call_limit", [{"limit": 3, "per": "PT24H"}], [{"limit": -1, "per": "PT24H"}, {"limit": 3}, 3]),
        ("grace", ["P2D", "10 business days", "without delay", "none"], ["P2W3D", "soon", 10]),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_key_says_and_nothing_else_is(key: str, good: list[object], bad: list[object]) -> None:
    for written in good:
        read_value(key, written)
    for written in bad:
        with pytest.raises(Invalid, match=f"{key} must be "):
            read_value(key, written)


# --- the page -----------------------------------------------------------------------------------------------------


def test_the_page_of_the_documentation_is_made_from_the_data() -> None:
    page = FILE.parents[1] / "docs" / "jurisdictions.md"

    assert page.read_text(encoding="utf-8") == jurisdiction_page(PROFILES), "run: make docs"


def test_a_profile_is_read_the_same_each_time_with_its_version_sources_and_notes() -> None:
    assert parse_profiles(FILE.read_text(encoding="utf-8")) == PROFILES
    assert PROFILES.version == FILE.stem


def test_the_page_shows_what_markdown_and_html_would_take_for_their_own() -> None:
    odd = msgspec.structs.replace(PROFILES.rows[0], source="a | b", note="<b>c</b>")
    page = jurisdiction_page(msgspec.structs.replace(PROFILES, rows=(odd,)))
    assert page.rstrip().endswith("| a &#124; b | &lt;b>c&lt;/b> |")


def test_the_page_says_any_relation_where_the_law_names_none() -> None:
    row = msgspec.structs.replace(PROFILES.rows[0], key="relations", value=None)
    assert "| `relations` | any | " in jurisdiction_page(msgspec.structs.replace(PROFILES, rows=(row,)))


def test_the_page_names_every_key_and_every_row_with_its_source() -> None:
    page = jurisdiction_page(PROFILES)

    assert [key for key in CELLS if f"| `{key}` |" not in page] == []
    assert [row for row in PROFILES.rows if row.source not in page or f"`{row.key}` | " not in page] == []
    assert "## FR, GF, GP, MF, MQ, RE, YT" in page
    assert (
        "| `relations` | purchase, contract, inquiry, donation since 2026-02-05 | 2026-02-05 |  | secondary |" in page
    )
