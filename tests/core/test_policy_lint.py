"""The linter finds what is wrong, says where, and lets nothing pass that this version does not enforce."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipped_profiles import PROFILES, SHIPPED
from volenti.core.policy.canonical import document_bytes, parse_document
from volenti.core.policy.compile import compile_policy
from volenti.core.policy.document import Additions, Change, Policy
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import MAX_FINDINGS, Linted, lint_succession
from volenti.core.policy.lint import lint as lint_with
from volenti.core.policy.notice import newly_published, published_form
from volenti.core.policy.shape import differences
from volenti.core.policy.yaml import load

SOUND = """\
controller: {name: Acme GmbH, contact: privacy@acme.example, establishment: DE}
markets: [DE, FR, GB, US]
languages: [en, de]
addresses: open
notices:
  newsletter:
    version: 3
    change: minor
    text:
      en: {title: Newsletter, body: "What is new."}
      de: {title: Newsletter, body: "Was es Neues gibt."}
purposes:
  newsletter:
    title: {en: Newsletter, de: Newsletter}
    class: marketing
    actions: [send, use]
    basis: {default: consent, US: opt_out}
    channels: [email, sms, push]
    topics: [weekly]
    notice: newsletter
    consent: {valid_for: P24M, double_opt_in: true, minimum_evidence: E1}
    active_from: 2026-01-01T00:00:00Z
    retired_at: 2027-01-01T00:00:00+01:00
  order_updates: {class: transactional, actions: [send], basis: {default: contract}, channels: [email]}
topics:
  weekly: {title: {en: Weekly letter, de: Wochenbrief}}
backdating_limit: P14D
jurisdictions: "2026.11"
"""


SMALLEST = (
    'controller: {name: A}\njurisdictions: "2026.11"\npurposes: {p: {actions: [use], basis: {default: contract}}}'
)


def lint(text: str) -> Linted:
    return lint_with(text, SHIPPED)


def sound() -> Policy:
    policy = lint(SOUND).policy
    assert policy is not None
    return policy


def with_change(old: str, new: str) -> str:
    """Give the sound document with one change that takes effect."""
    assert SOUND.count(old) == 1
    return SOUND.replace(old, new)


def brief(findings: tuple[Finding, ...]) -> list[tuple[int, str, str]]:
    return [(found.line, found.pointer, found.severity) for found in findings]


def test_a_sound_document_has_no_findings() -> None:
    linted = lint(SOUND)

    assert linted.findings == ()
    assert linted.policy is not None
    assert linted.policy == parse_document(document_bytes(linted.policy))
    assert linted.policy.backdating_limit == "P14D"


def test_the_smallest_document_is_sound() -> None:
    linted = lint(SMALLEST)

    assert linted.findings == ()
    assert linted.policy is not None


BEFORE_MEMBER = {  # where a member may be put in, and on which line it then stands
    "": ("controller: {", "{member}: {value}\ncontroller: {", 1),
    "/purposes/newsletter": ("    class: marketing\n", "    class: marketing\n    {member}: {value}\n", 16),
    "/topics/weekly": ("weekly: {title", "weekly: {{member}: {value}, title", 26),
    "/notices/newsletter": ("    version: 3\n", "    version: 3\n    {member}: {value}\n", 8),
}
NOT_YET_MEMBERS = [
    ("", "caps", "[{name: week, class: marketing, limit: 3, per: {rolling: P7D}, on_reach: deny}]"),
    ("", "quiet_hours", '[{name: night, class: marketing, channels: [sms], start: "21:00", end: "08:00"}]'),
    ("", "time_zone", "Europe/Berlin"),
    ("/purposes/newsletter", "counts_toward_caps", "true"),
    ("/purposes/newsletter", "on_quiet", "defer"),
    ("/topics/weekly", "default", "opted_in"),
    ("/topics/weekly", "always_on", "true"),
]


@pytest.mark.parametrize(("parent", "member", "value"), NOT_YET_MEMBERS)
def test_a_member_that_is_not_enforced_yet_is_refused_with_this_sentence(parent: str, member: str, value: str) -> None:
    old, new, line = BEFORE_MEMBER[parent]

    linted = lint(with_change(old, new.replace("{member}", member).replace("{value}", value)))

    assert linted.policy is None
    assert [(line, f"{parent}/{member}", "error")] == brief(linted.findings)
    assert f"this version does not enforce “{member}” yet: remove it" == linted.findings[0].message


@pytest.mark.parametrize(
    ("old", "new", "line", "pointer", "message"),
    [
        ("markets: [", "market: [", 2, "/market", "unknown member “market”: did you mean “markets”?"),
        ("    channels: [email, sms", "    chanels: [email, sms", 18, "/purposes/newsletter/chanels", "“channels”?"),
        ("minimum_evidence: E1", "min: E1", 21, "/purposes/newsletter/consent/min", "unknown member “min”"),
        ("markets: [", "cap: []\nmarkets: [", 2, "/cap", "unknown member “cap”: did you mean “caps”?"),
        ("markets: [", "on: 1\nmarkets: [", 2, "/on", "unknown member “on”"),
        ("class: marketing", "class: markting", 15, "/purposes/newsletter/class", "did you mean “marketing”?"),
        (
            "[send, use]",
            "[send, Use]",
            16,
            "/purposes/newsletter/actions/1",
            "unknown value “Use”: did you mean “use”?",
        ),
        ("[email, sms, push]", "[email, pigeon]", 18, "/purposes/newsletter/channels/1", "must be one of email, sms"),
        (
            "US: opt_out",
            "US: yes",
            17,
            "/purposes/newsletter/basis/US",
            "unknown value “yes”: must be one of prohibited, consent",
        ),
        ("US: opt_out", "US: 1", 17, "/purposes/newsletter/basis/US", "must be one of prohibited, consent"),
        ("US: opt_out", "usa: opt_out", 17, "/purposes/newsletter/basis/usa", "must be default, an ISO 3166 code"),
        ("[DE, FR, GB, US]", "[DE, Germany]", 2, "/markets/1", "must be an ISO 3166 code"),
        ("[DE, FR, GB, US]", "[DE, default]", 2, "/markets/1", "must be an ISO 3166 code"),
        ("[DE, FR, GB, US]", "DE", 2, "/markets", "must be a list"),
        ("languages: [en, de]", "languages: []", 3, "/languages", "must not be empty"),
        ("languages: [en, de]", "languages: [English]", 3, "/languages/0", "must be a language tag"),
        ("version: 3", 'version: "3"', 7, "/notices/newsletter/version", "must be a whole number"),
        ("version: 3", "version: 0", 7, "/notices/newsletter/version", "must be a whole number"),
        ("version: 3", "version: 3.0", 7, "/notices/newsletter/version", "must be a whole number"),
        ("version: 3", "version: true", 7, "/notices/newsletter/version", "must be a whole number"),
        ("version: 3", "version: 1000001", 7, "/notices/newsletter/version", "must be a whole number"),
        (
            "double_opt_in: true",
            "double_opt_in: no",
            21,
            "/purposes/newsletter/consent/double_opt_in",
            "true or false",
        ),
        ("valid_for: P24M", "valid_for: 24", 21, "/purposes/newsletter/consent/valid_for", "ISO 8601 duration"),
        ("valid_for: P24M", "valid_for: 24M", 21, "/purposes/newsletter/consent/valid_for", "ISO 8601 duration"),
        ("valid_for: P24M", "valid_for: P0M", 21, "/purposes/newsletter/consent/valid_for", "at most 100 years"),
        ("backdating_limit: P14D", "backdating_limit: P101Y", 27, "/backdating_limit", "at most 100 years"),
        ("minimum_evidence: E1", "minimum_evidence: E5", 21, "/purposes/newsletter/consent/minimum_evidence", "E0, E1"),
        ("2026-01-01T00:00:00Z", "2026-01-01", 22, "/purposes/newsletter/active_from", "must be an RFC 3339 instant"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00", 22, "/purposes/newsletter/active_from", "RFC 3339 instant"),
        ("2026-01-01T00:00:00Z", "2026-02-30T00:00:00Z", 22, "/purposes/newsletter/active_from", "RFC 3339 instant"),
        ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 22, "/purposes/newsletter/active_from", "RFC 3339 instant"),
        ("name: Acme GmbH", 'name: "a\\0b"', 1, "/controller/name", "without control characters"),
        ("name: Acme GmbH", 'name: "a\\n"', 1, "/controller/name", "without control characters"),
        ("name: Acme GmbH", 'name: "\\ud800"', 1, "/controller/name", "without control characters"),
        ("name: Acme GmbH", "name:", 1, "/controller/name", "must be one line"),
        ("name: Acme GmbH", "name: 7", 1, "/controller/name", "must be one line"),
        ("name: Acme GmbH, ", "", 1, "/controller", "the member “name” is missing"),
        ('"What is new."', '"What\\x07"', 10, "/notices/newsletter/text/en/body", "without control characters"),
        ('"What is new."', '""', 10, "/notices/newsletter/text/en/body", "text of 1 to 20,000 characters"),
        ("    actions: [send, use]\n", "", 13, "/purposes/newsletter", "the member “actions” is missing"),
        ("    actions: [send, use]", "    actions:", 16, "/purposes/newsletter/actions", "must be a list"),
        ("  order_updates: {", "  Order Updates: {", 24, "/purposes/Order Updates", "must be a key"),
        ("  order_updates: {", '  "a/b": {', 24, "/purposes/a~1b", "must be a key"),
        ("  order_updates: {class", "  x: 1\n  order_updates: {class", 24, "/purposes/x", "must be a mapping"),
        ("name: Acme GmbH", "name: 012", 1, "/controller/name", "octal"),
        ("addresses: open", "addresses: open\naddresses: open", 5, "/addresses", "appears twice"),
        ("[DE, FR, GB, US]", "[DE, DE]", 2, "/markets/1", "“DE” is named twice"),
        ("[send, use]", "[send, send]", 16, "/purposes/newsletter/actions/1", "“send” is named twice"),
        ("[DE, FR, GB, US]", "[UK]", 2, "/markets/0", "“UK” is no ISO 3166 code: did you mean “GB”?"),
        ("US: opt_out", "XX-A: opt_out", 17, "/purposes/newsletter/basis/XX-A", "“XX-A” is no ISO 3166 code"),
        ("establishment: DE", "establishment: QQ", 1, "/controller/establishment", "“QQ” is no ISO 3166 code"),
        ("languages: [en, de]", "languages: [en, de, fr]", 9, "/notices/newsletter/text", "has no text in “fr”"),
        ("default: consent, US", "EU: consent, US", 17, "/purposes/newsletter/basis", "“default” is missing"),
        ("    class: marketing\n", "", 13, "/purposes/newsletter", "needs a class"),
        (", channels: [email]}", "}", 24, "/purposes/order_updates", "needs channels"),
        ("2027-01-01T00:00:00+01:00", "2026-01-01T01:00:00+01:00", 23, "/purposes/newsletter/retired_at", "later than"),
    ],
)
def test_an_error_is_found_where_it_stands(old: str, new: str, line: int, pointer: str, message: str) -> None:
    linted = lint(with_change(old, new))

    assert linted.policy is None
    assert (line, pointer, "error") in brief(linted.findings)
    assert message in next(found.message for found in linted.findings if found.pointer == pointer)


@pytest.mark.parametrize(
    ("old", "new", "line", "pointer", "message"),
    [
        ("    notice: newsletter\n", "", 13, "/purposes/newsletter", "rests on consent needs a notice"),
        ("    notice: newsletter\n", "    notice: letter\n", 20, "/purposes/newsletter/notice", "there is no notice"),
        ("topics: [weekly]", "topics: [monthly]", 19, "/purposes/newsletter/topics/0", "there is no topic “monthly”"),
    ],
)
def test_a_reference_that_leads_nowhere_is_an_error_and_what_it_left_unused_a_warning(
    old: str, new: str, line: int, pointer: str, message: str
) -> None:
    findings = lint(with_change(old, new)).findings

    assert sorted(found.severity for found in findings) == ["error", "warning"]
    error = next(found for found in findings if found.severity == "error")
    assert (line, pointer) == (error.line, error.pointer)
    assert message in error.message
    assert "no purpose uses" in next(found.message for found in findings if found.severity == "warning")


@pytest.mark.parametrize(
    ("old", "new", "line", "pointer", "message"),
    [
        ("US: opt_out", "US: contract", 17, "/purposes/newsletter/basis/US", "marketing on the basis “contract”"),
        ("US: opt_out", "US: legal_obligation", 17, "/purposes/newsletter/basis/US", "marketing on the basis “legal"),
        ("    topics: [weekly]\n", "", 25, "/topics/weekly", "no purpose uses the topic “weekly”"),
        ("{en: Weekly letter, de: Wochenbrief}", "{en: Weekly}", 26, "/topics/weekly/title", "missing in “de”"),
        ("{en: Newsletter, de: Newsletter}", "{de: Brief}", 14, "/purposes/newsletter/title", "missing in “en”"),
        ("{en: Weekly letter, ", "{fr: Lettre, en: W, ", 26, "/topics/weekly/title/fr", "not one of the policy's"),
        ("languages: [en, de]", "languages: [en]", 11, "/notices/newsletter/text/de", "not one of the policy's"),
        (
            "{default: contract}, ",
            "{default: contract}, consent: {valid_for: P1M}, ",
            24,
            "/purposes/order_updates/consent",
            "no effect",
        ),
    ],
)
def test_a_doubtful_member_is_a_warning_and_the_policy_stands(
    old: str, new: str, line: int, pointer: str, message: str
) -> None:
    linted = lint(with_change(old, new))

    assert linted.policy is not None
    assert (line, pointer, "warning") in brief(linted.findings)
    assert message in next(found.message for found in linted.findings if found.pointer == pointer)


def test_findings_come_by_line_and_all_at_once() -> None:
    broken = SOUND.replace("version: 3", "version: x").replace("markets", "merkets").replace("P14D", "P14")

    assert [found.line for found in lint(broken).findings] == [2, 7, 27]


def test_a_title_is_never_demanded() -> None:
    assert lint(with_change("    title: {en: Newsletter, de: Newsletter}\n", "")).findings == ()


@pytest.mark.parametrize("text", ["", "~", "[]", "text", "1"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert [(f.line, f.pointer, f.message) for f in lint(text).findings] == [(1, "", "must be a mapping of members")]


def test_too_many_purposes_are_refused() -> None:
    many = "".join(f"  p{i}: {{actions: [use], basis: {{default: contract}}}}\n" for i in range(501))

    assert [found.message for found in lint(f"controller: {{name: A}}\npurposes:\n{many}").findings] == [
        "must have at most 500 members, not 501"
    ]


def test_so_many_errors_that_nobody_reads_them_are_cut_off() -> None:
    assert len(lint("".join(f"a{i}: 1\n" for i in range(1000))).findings) == MAX_FINDINGS
    assert len(lint("a: 1\n" * 1000).findings) == MAX_FINDINGS


def test_a_message_stays_on_one_line_whatever_it_quotes() -> None:
    messages = [found.message for found in lint('"a\\n\\x1b[31m\\u202e' + 100 * "x" + '": 1').findings]

    assert all(message.isprintable() and len(message) < 200 for message in messages)


# --- the members of the decision engine -----------------------------------------------------------------------------

WHOLE = """\
controller: {name: Acme GmbH}
markets: [DE, US]
languages: [en]
backdating_limit: P30D
addresses: verified
jurisdictions: "2026.11"
overrides:
  DE: {email_marketing: {value: consent}}
  US: {phone_marketing: {value: consent, because: "we never call unasked"}}
suspend: {workspace: false, purposes: [ads], channels: [sms]}
asking: {cooldown: P30D, per_quarter: 4}
notices:
  letter:
    version: 4
    change: extends
    adds: {recipients: [mailer], data: [orders]}
    text: {en: {title: Letter, body: News.}}
purposes:
  letter:
    class: marketing
    actions: [send]
    basis: {default: consent, US: soft_opt_in}
    channels: [email, sms, voice]
    topics: [news]
    data: [contact, orders]
    recipients: [mailer]
    regions: [EU, US-CA]
    retention: P36M
    notice: letter
    consent: {valid_for: P24M, double_opt_in: true}
    relations: {purchase: P24M, inquiry: P6M}
    exempt: [caps]
    log_guarantee: required
  scores:
    actions: [profile]
    basis: {default: legitimate_interest}
    activity: profiling
    serves: letter
    sensitive: true
    notice: letter
  ads: {actions: [share, sell], basis: {default: consent, US: opt_out}, notice: letter}
topics:
  news: {}
  offers: {parent: news}
  sale: {parent: offers}
"""


def test_a_document_with_every_member_is_sound() -> None:
    linted = lint(WHOLE)

    assert [found.message for found in linted.findings] == []
    assert linted.policy == parse_document(document_bytes(sound_whole()))


def sound_whole() -> Policy:
    policy = lint(WHOLE).policy
    assert policy is not None
    return policy


@pytest.mark.parametrize(
    ("old", "new", "line", "pointer", "message"),
    [
        ('"2026.11"', '"2026.12"', 6, "/jurisdictions", "no version “2026.12” of the jurisdiction profiles; shipped: 2026.11"),
        ('"2026.11"', "2026.11", 6, "/jurisdictions", "in quotes"),
        ("  DE: {email", "  UK: {email", 8, "/overrides/UK", "“UK” is no ISO 3166 code"),
        ("value: consent}", "value: opt_out}", 8, "/overrides/DE/email_marketing", "laxer than the profile's “soft_opt_in”: say why, in because"),
        ("email_marketing:", "email_markting:", 8, "/overrides/DE/email_markting", "unknown key “email_markting”: did you mean “email_marketing”?"),
        ("email_marketing: {value: consent}", "age_of_consent: {value: consent}", 8, "/overrides/DE/age_of_consent", "age_of_consent must be an age"),
        ("email_marketing: {value: consent}", "push_quiet: {value: P1M}", 8, "/overrides/DE/push_quiet", "push_quiet must be a time span"),
        ("email_marketing: {value: consent}", 'grace: {value: P1M}', 8, "/overrides/DE/grace", "does not enforce “grace” yet"),
        ("email_marketing: {value: consent}", "age_of_consent: {value: 13}", 8, "/overrides/DE/age_of_consent", "laxer than the profile's “16”"),
        ("email_marketing: {value: consent}", "reask_lock: {value: none}", 8, "/overrides/DE/reask_lock", "laxer than the profile's “P6M”"),
        ("email_marketing: {value: consent}", "consent_expiry: {value: P3Y}", 8, "/overrides/DE/consent_expiry", "laxer than the profile's “P24M”"),
        ("email_marketing: {value: consent}", "relations: {value: any}", 8, "/overrides/DE/relations", "laxer than the profile's “purchase, contract”"),
        ("email_marketing: {value: consent}", "relations: {value: {inquiry: {}}}", 8, "/overrides/DE/relations", "laxer"),
        ("email_marketing: {value: consent}", "human_review.significant_decisions: {value: false}", 8, "/overrides/DE/human_review.significant_decisions", "laxer than the profile's “true”"),
        ("{value: consent}", "{value: [consent]}", 8, "/overrides/DE/email_marketing/value", "must be text, a whole number"),
        ("{value: consent}", "consent", 8, "/overrides/DE/email_marketing", "must be a mapping"),
        ("purposes: [ads]", "purposes: [adds]", 10, "/suspend/purposes/0", "there is no purpose “adds”"),
        ("channels: [sms]}", "channels: [fax]}", 10, "/suspend/channels/0", "unknown value “fax”"),
        ("cooldown: P30D", "cooldown: P0D", 11, "/asking/cooldown", "longer than nothing"),
        ("per_quarter: 4", "per_quarter: 0", 11, "/asking/per_quarter", "must be a whole number from 1 to 64"),
        ("change: extends", "change: minor", 16, "/notices/letter/adds", "adds belongs to change: extends"),
        ("    adds: {recipients: [mailer], data: [orders]}\n", "", 15, "/notices/letter/change", "extends needs adds"),
        ("adds: {recipients: [mailer]", "adds: {recipients: [mailr]", 16, "/notices/letter/adds/recipients/0", "no purpose with this notice names “mailr” in recipients"),
        ("data: [orders]}", "data: [clicks]}", 16, "/notices/letter/adds/data/0", "no purpose with this notice names “clicks” in data"),
        ("regions: [EU, US-CA]", "regions: [EU, UK]", 27, "/purposes/letter/regions/1", "“UK” is no ISO 3166 code"),
        ("recipients: [mailer]\n", "recipients: [mailer, mailer]\n", 26, "/purposes/letter/recipients/1", "named twice"),
        ("retention: P36M", "retention: P0M", 28, "/purposes/letter/retention", "longer than nothing"),
        ("purchase: P24M", "purchase: P0M", 31, "/purposes/letter/relations/purchase", "longer than nothing"),
        ("{purchase: P24M", "{friend: P24M", 31, "/purposes/letter/relations/friend", "unknown value “friend”"),
        ("exempt: [caps]", "exempt: [cap]", 32, "/purposes/letter/exempt/0", "did you mean “caps”?"),
        ("serves: letter", "serves: latter", 38, "/purposes/scores/serves", "there is no purpose “latter”"),
        ("serves: letter", "serves: scores", 38, "/purposes/scores/serves", "a purpose cannot serve itself"),
        ("parent: news", "parent: sale", 44, "/topics/offers/parent", "the topic “offers” is its own ancestor"),
        ("parent: offers", "parent: offer", 45, "/topics/sale/parent", "there is no topic “offer”"),
    ],
)  # fmt: skip
def test_an_error_among_the_members_of_the_engine_is_found_where_it_stands(
    old: str, new: str, line: int, pointer: str, message: str
) -> None:
    assert WHOLE.count(old) == 1

    linted = lint(WHOLE.replace(old, new))

    assert linted.policy is None
    errors = {found.pointer: found for found in linted.findings if found.severity == "error"}
    assert pointer in errors, list(errors)
    assert (line, True) == (errors[pointer].line, message in errors[pointer].message), errors[pointer].message


@pytest.mark.parametrize(
    ("old", "new", "line", "pointer", "message"),
    [
        ('jurisdictions: "2026.11"\noverrides:\n  DE: {email_marketing: {value: consent}}\n  US: {phone_marketing: {value: consent, because: "we never call unasked"}}\n', "", 1, "", 'no jurisdiction profile binds, only the purposes\' own bases: add jurisdictions: "2026.11"'),
        ("value: consent}", "value: soft_opt_in}", 8, "/overrides/DE/email_marketing", "the override changes nothing"),
        ("  DE: {email_marketing: {value: consent}}", "  EU: {email_marketing: {value: consent}}", 8, "/overrides/EU/email_marketing", "does not reach DE, with values of their own"),
        ("  DE: {email_marketing: {value: consent}}", "  FR: {consent_expiry: {value: P1M}}", 8, "/overrides/FR/consent_expiry", "does not reach FR (consent_expiry.analytics)"),
        ("  DE: {email_marketing: {value: consent}}", "  CA: {analytics: {value: consent}}", 8, "/overrides/CA/analytics", "no purpose does this"),
        ("{value: consent}", "{value: opt_out, because: we ask all the same}", 8, "/overrides/DE/email_marketing", "has no effect: every purpose that does this has a stricter basis"),
        ("workspace: false", "workspace: true", 10, "/suspend/workspace", "every question is denied"),
        ("channels: [sms]}", "channels: [push]}", 10, "/suspend/channels/0", "no purpose sends by push"),
        ("valid_for: P24M", "valid_for: P48M", 28, "/purposes/letter/retention", "deleted before the consent"),
        ("exempt: [caps]", "exempt: [objection]", 32, "/purposes/letter/exempt", "absolute"),
        ("    relations: {purchase: P24M, inquiry: P6M}\n", "", 19, "/purposes/letter", "a soft opt-in needs relations"),
        ("    sensitive: true\n", "    sensitive: true\n    channels: [email]\n", 40, "/purposes/scores/channels", "channels are for purposes that send"),
        ("actions: [profile]", "actions: [use]", 38, "/purposes/scores/serves", "serves is for purposes that profile"),
        ("    sensitive: true\n    notice: letter\n", "    sensitive: true\n", 34, "/purposes/scores", "the jurisdiction profile demands consent in DE"),
        ("double_opt_in: true", "double_opt_in: false", 19, "/purposes/letter", "double opt-in is recommended in DE"),
        ("channels: [email, sms, voice]", "channels: [sms]", 22, "/purposes/letter/basis/US", "has no effect: the jurisdiction profile demands “consent” there"),
        ("    notice: letter\n  ads", "    notice: letter\n    relations: {purchase: P1M}\n  ads", 41, "/purposes/scores/relations", "no basis of this purpose is soft_opt_in"),
        ("  sale: {parent: offers}", "  sale: {}", 45, "/topics/sale", "no purpose uses the topic “sale”"),
    ],
)  # fmt: skip
def test_what_has_no_effect_or_is_doubtful_is_a_warning_that_says_what_to_do(
    old: str, new: str, line: int, pointer: str, message: str
) -> None:
    assert WHOLE.count(old) == 1

    linted = lint(WHOLE.replace(old, new))

    assert linted.policy is not None, linted.findings
    warnings = {found.pointer: found for found in linted.findings}
    assert pointer in warnings, [(found.pointer, found.message) for found in linted.findings]
    assert (line, True) == (warnings[pointer].line, message in warnings[pointer].message), warnings[pointer].message


def test_overrides_without_a_profile_are_an_error() -> None:
    findings = lint(WHOLE.replace('jurisdictions: "2026.11"\n', "")).findings

    assert (6, "/overrides", "error") in brief(findings)


def test_a_laxer_override_that_says_why_is_taken_as_it_is() -> None:
    """Soft opt-in instead of consent to WhatsApp: what the profile of Germany leaves open."""
    text = WHOLE.replace("sms, voice]", "sms, voice, whatsapp]").replace(
        "default: consent, US: soft_opt_in", "default: soft_opt_in"
    )
    reasoned = text.replace(
        "email_marketing: {value: consent}", 'whatsapp_marketing: {value: soft_opt_in, because: "counsel"}'
    )
    silent = reasoned.replace(', because: "counsel"', "")

    assert lint(reasoned).findings == ()
    assert [found.pointer for found in lint(silent).findings] == ["/overrides/DE/whatsapp_marketing"]


@pytest.mark.parametrize(
    ("place", "override", "hidden"),
    [
        ("DE", "human_review: {value: false}", "true"),
        ("IN-KA", "minors_prohibited_below: {value: none}", "18"),
        ("FR-IDF", "consent_expiry: {value: P24M}", "P6M"),
        ("DE", 'human_review: {value: false, because: " "}', "true"),
    ],
)
def test_an_override_for_all_rows_that_hides_a_stricter_one_of_a_wider_place_says_why(
    place: str, override: str, hidden: str
) -> None:
    text = WHOLE.replace("  DE: {email_marketing: {value: consent}}", f"  {place}: {{{override}}}")
    errors = [one for one in lint(text).findings if one.severity == "error"]
    assert [one.message for one in errors] == [f"laxer than the profile's “{hidden}”: say why, in because"]


def test_the_advice_on_double_opt_in_may_be_overridden_as_well() -> None:
    text = WHOLE.replace("double_opt_in: true", "double_opt_in: false").replace(
        "{email_marketing: {value: consent}}",
        '{email_marketing: {value: consent}, double_opt_in: {value: optional, because: "at the counter"}}',
    )

    assert lint(text).findings == ()


def test_a_document_that_names_a_profile_is_refused_where_none_is_shipped() -> None:
    findings = lint_with(WHOLE).findings

    assert [(found.pointer, found.severity) for found in findings] == [("/jurisdictions", "error")]
    assert findings[0].message.endswith("shipped: none")


def test_a_document_without_a_profile_gets_no_advice_where_none_is_shipped() -> None:
    findings = lint_with(SMALLEST.replace('jurisdictions: "2026.11"\n', "")).findings

    assert [found.message for found in findings] == ["no jurisdiction profile binds, only the purposes' own bases"]


# --- succession ---------------------------------------------------------------------------------------------------


def changed(**members: object) -> Policy:
    newsletter = msgspec.structs.replace(sound().notices["newsletter"], **members)
    return msgspec.structs.replace(sound(), notices={"newsletter": newsletter})


NEW_TEXT = {"en": msgspec.structs.replace(sound().notices["newsletter"].text["en"], body="Other words.")}


@pytest.mark.parametrize(
    ("policy", "line", "pointer", "message"),
    [
        (changed(text=NEW_TEXT), 9, "text", "version 3 is published with another text: raise the version"),
        (changed(version=2), 7, "version", "version 3 is already published: a version never goes back"),
        (changed(change=Change.MATERIAL), 8, "change", "version 3 is published as minor"),
    ],
)
def test_a_published_notice_version_never_changes(policy: Policy, line: int, pointer: str, message: str) -> None:
    published = newly_published(sound().notices, ())

    findings = lint_succession(policy, published, previous=sound(), lines=lint(SOUND).lines)

    assert [(line, f"/notices/newsletter/{pointer}", "error")] == brief(findings)
    assert message in findings[0].message


def test_a_gap_in_the_history_may_not_be_filled_afterwards() -> None:
    newer = published_form("newsletter", changed(version=5).notices["newsletter"])

    findings = lint_succession(changed(version=4), [newer])

    assert brief(findings) == [(0, "/notices/newsletter/version", "error")]


@pytest.mark.parametrize(
    "policy",
    [sound(), changed(version=4, text=NEW_TEXT), changed(version=9, change=Change.MATERIAL)],
)
def test_the_same_words_or_a_higher_version_may_follow(policy: Policy) -> None:
    published = newly_published(sound().notices, ())

    assert lint_succession(policy, published, previous=sound()) == ()


def test_a_purpose_is_retired_and_never_deleted() -> None:
    policy = sound()
    without = msgspec.structs.replace(policy, purposes={"newsletter": policy.purposes["newsletter"]})

    findings = lint_succession(without, newly_published(policy.notices, ()), previous=policy, lines=lint(SOUND).lines)

    assert brief(findings) == [(12, "/purposes", "error")]
    assert "“order_updates” was published: keep it and give it retired_at" in findings[0].message


def test_the_first_policy_has_nothing_to_follow() -> None:
    assert lint_succession(changed(change=Change.MATERIAL), ()) == ()


@pytest.mark.parametrize(("change", "verb"), [(Change.MINOR, "corrects"), (Change.EXTENDS, "extends")])
def test_a_first_version_that_claims_to_change_something_is_doubtful(change: Change, verb: str) -> None:
    findings = lint_succession(changed(change=change), (), lines=lint(SOUND).lines)

    assert brief(findings) == [(8, "/notices/newsletter/change", "warning")]
    assert findings[0].message.endswith(f"there is nothing that it {verb}")


def test_what_a_published_version_adds_never_changes() -> None:
    published = newly_published(changed(change=Change.EXTENDS, adds=Additions(recipients=("v1",))).notices, ())
    more = changed(change=Change.EXTENDS, adds=Additions(recipients=("v1", "v2")))

    assert brief(lint_succession(more, published)) == [(0, "/notices/newsletter/adds", "error")]


# --- whatever the text --------------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "controller",
        "name",
        "contact",
        "markets",
        "languages",
        "addresses",
        "notices",
        "version",
        "change",
        "text",
        "title",
        "body",
        "purposes",
        "class",
        "actions",
        "basis",
        "channels",
        "topics",
        "notice",
        "consent",
        "valid_for",
        "minimum_evidence",
        "double_opt_in",
        "active_from",
        "retired_at",
        "backdating_limit",
        "caps",
        "default",
        "en",
        "de",
        "DE",
        "US-CA",
        "EU",
        "consent",
        "opt_out",
        "send",
        "use",
        "email",
        "marketing",
        "open",
        "managed",
        "material",
        "P24M",
        "P0D",
        "P30D",
        "2026-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "E1",
        "newsletter",
        "weekly",
        "UK",
        "jurisdictions",
        "2026.11",
        "overrides",
        "email_marketing",
        "relations",
        "purchase",
        "value",
        "because",
        "suspend",
        "asking",
        "parent",
        "serves",
        "extends",
        "adds",
        "soft_opt_in",
        "time_zone",
    ]
)
scalars = st.one_of(words, st.text(max_size=6), st.none(), st.booleans(), st.integers(-3, 2**40), st.floats())
structures = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.one_of(words, st.text(max_size=6)), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=100).map(lambda b: b.decode("latin-1"))))
def test_lint_never_raises_on_any_text(text: str) -> None:
    linted = lint(text)

    assert (linted.policy is None) == any(found.severity == "error" for found in linted.findings)


@settings(max_examples=300, deadline=None)
@given(structures)
def test_lint_never_raises_on_any_structure(structure: object) -> None:
    lint(json.dumps(structure))
    lint(json.dumps(structure, ensure_ascii=False, indent=1))


@st.composite
def nearly_sound(draw: st.DrawFn) -> object:
    """A sound document in which something is replaced, or put in, that may be anything."""
    text = draw(st.sampled_from([SOUND, WHOLE]))
    value = load(text).value
    *path, last = draw(st.sampled_from([pointer for pointer in load(text).lines if pointer]))[1:].split("/")
    target: object = value
    for step in path:
        if isinstance(target, dict):
            target = target[step]
        elif isinstance(target, list):
            target = target[int(step)]
    if isinstance(target, dict):
        target[draw(st.just(last) | words)] = draw(structures)
    elif isinstance(target, list):
        target.append(draw(structures))
    return value


@settings(max_examples=200, deadline=None)
@given(nearly_sound())
def test_what_has_the_shape_of_a_policy_converts_to_one(value: object) -> None:
    if not list(differences(value)):
        msgspec.convert(value, Policy)


@settings(max_examples=60, deadline=None)
@given(nearly_sound())
def test_what_passes_the_linter_compiles_and_is_read_back(value: object) -> None:
    policy = lint(json.dumps(value)).policy

    if policy is not None:
        compile_policy(policy, (), PROFILES, 0)
        assert policy == parse_document(document_bytes(policy))


@pytest.mark.parametrize(
    ("instant", "usable"),
    [
        ("1969-12-31T23:59:59Z", False),
        ("1970-01-01T00:00:00Z", True),
        ("9998-12-31T23:59:59Z", True),
        ("9999-01-01T00:00:00Z", False),
        ("2026-01-01T00:00:00", False),
    ],
)
def test_an_instant_lies_within_the_years_that_can_be_reckoned_with_and_names_its_zone(
    instant: str, usable: bool
) -> None:
    linted = lint(f'{SMALLEST[:-2]}, retired_at: "{instant}"}}}}')
    assert (linted.policy is not None) is usable
