"""The linter finds what is wrong, says where, and lets nothing pass that this version does not enforce."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.policy.canonical import document_bytes, parse_document
from volenti.core.policy.compile import compile_policy
from volenti.core.policy.document import Change, Policy
from volenti.core.policy.finding import Finding
from volenti.core.policy.lint import MAX_FINDINGS, lint, lint_succession
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
    consent: {valid_for: P24M, double_opt_in: false, minimum_evidence: E1}
    active_from: 2026-01-01T00:00:00Z
    retired_at: 2027-01-01T00:00:00+01:00
  order_updates: {class: transactional, actions: [send], basis: {default: contract}, channels: [email]}
topics:
  weekly: {title: {en: Weekly letter, de: Wochenbrief}}
backdating_limit: P14D
"""


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
    linted = lint("controller: {name: A}\npurposes: {p: {actions: [use], basis: {default: contract}}}")

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
            "double_opt_in: false",
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

    findings = lint_succession(without, (), previous=policy, lines=lint(SOUND).lines)

    assert brief(findings) == [(12, "/purposes", "error")]
    assert "“order_updates” was published: keep it and give it retired_at" in findings[0].message


def test_the_first_policy_has_nothing_to_follow() -> None:
    assert lint_succession(sound(), ()) == ()


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
    value = load(SOUND).value
    *path, last = draw(st.sampled_from([pointer for pointer in load(SOUND).lines if pointer]))[1:].split("/")
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
        compile_policy(policy, (), None, 0)
        assert policy == parse_document(document_bytes(policy))
