"""Everything that is wrong with a policy document, before it is published."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import msgspec

from volenti.core.policy.compile import with_descendants
from volenti.core.policy.document import (
    Action,
    Additions,
    Change,
    ConsentTerms,
    Exemption,
    LawfulBasis,
    MessageClass,
    Policy,
    Purpose,
)
from volenti.core.policy.duration import parse_duration
from volenti.core.policy.finding import Finding, Remark, child, quoted
from volenti.core.policy.jurisdiction import DEFAULT, OFTEN_MEANT, is_jurisdiction
from volenti.core.policy.lint_profiles import jurisdiction_remarks
from volenti.core.policy.notice import PublishedNotice, notice_hash
from volenti.core.policy.profile import Profiles
from volenti.core.policy.shape import differences
from volenti.core.policy.terms import shorter
from volenti.core.policy.yaml import load

NO_PROFILES: Mapping[str, Profiles] = MappingProxyType({})
MAX_FINDINGS = 100
"""How many errors of reading and of shape are given: nobody reads more, and wording each costs time."""


class Linted(msgspec.Struct, frozen=True, kw_only=True):
    """The policy, or `None` if a finding is an error; the findings by line; the line of each member by its pointer."""

    policy: Policy | None
    findings: tuple[Finding, ...]
    lines: Mapping[str, int] = {}


def lint(text: str, profiles: Mapping[str, Profiles] = NO_PROFILES) -> Linted:
    """Give the policy that a YAML text holds and all that is wrong with it. Never raises, whatever the text.

    profiles: the shipped versions of the jurisdiction profiles; a policy that names another one has an error. First the text must be YAML, then every member must be known and of its type, then the rules between members
    are looked at; a step that finds errors is the last. Of the first two steps, the first 100 errors are given.
    """
    loaded = load(text)
    if loaded.findings:
        return Linted(policy=None, findings=_by_line(loaded.findings[:MAX_FINDINGS]), lines=loaded.lines)
    found = islice(differences(loaded.value), MAX_FINDINGS)
    shape: list[Remark] = [(pointer, "error", message) for pointer, message in found]
    if shape:
        return Linted(policy=None, findings=_located(shape, loaded.lines), lines=loaded.lines)
    policy = msgspec.convert(loaded.value, Policy)
    rules = [remark for rule in _RULES for remark in rule(policy)]
    findings = _located([*rules, *jurisdiction_remarks(policy, profiles)], loaded.lines)
    sound = all(finding.severity != "error" for finding in findings)
    return Linted(policy=policy if sound else None, findings=findings, lines=loaded.lines)


def lint_succession(
    policy: Policy,
    published: Sequence[PublishedNotice],
    *,
    previous: Policy | None = None,
    lines: Mapping[str, int] | None = None,
) -> tuple[Finding, ...]:
    """Give what forbids a policy to follow those published before it, and what it says in vain.

    published: every notice version published so far, in any order. previous: the policy in force, `None` for the
    first. lines: those of `Linted`; without them every line is 0.
    """
    remarks = [*_changed_notices(policy, published), *_vanished_purposes(policy, previous)]
    return _located(remarks, lines or {})


def _changed_notices(policy: Policy, published: Sequence[PublishedNotice]) -> Iterator[Remark]:
    for key, notice in policy.notices.items():
        history = {one.version: one for one in published if one.notice == key}
        newest = max(history, default=0)
        at = child("/notices", key)
        same = history.get(notice.version)
        if notice.version < newest:
            yield child(at, "version"), "error", f"version {newest} is already published: a version never goes back"
        elif same is not None and same.hash != notice_hash(key, notice):
            yield child(at, "text"), "error", f"version {newest} is published with another text: raise the version"
        elif same is not None and same.change is not notice.change:
            yield (
                child(at, "change"),
                "error",
                f"version {newest} is published as {same.change.value}: a published version does not change",
            )
        elif same is not None and same.adds != notice.adds:
            yield child(at, "adds"), "error", f"version {newest} is published with other additions: raise the version"
        elif not history and notice.change is not Change.MATERIAL:
            yield (
                child(at, "change"),
                "warning",
                f"the first version that is published counts as material: there is nothing that it {_CHANGES[notice.change]}",
            )


_CHANGES = {Change.MINOR: "corrects", Change.EXTENDS: "extends"}


def _vanished_purposes(policy: Policy, previous: Policy | None) -> Iterator[Remark]:
    for key in sorted(previous.purposes.keys() - policy.purposes.keys()) if previous is not None else ():
        yield (
            "/purposes",
            "error",
            f"the purpose {quoted(key)} was published: keep it and give it retired_at; a purpose is never deleted",
        )


_WITHOUT_CHOICE = frozenset({LawfulBasis.CONTRACT, LawfulBasis.LEGAL_OBLIGATION, LawfulBasis.VITAL_INTEREST})
_PROFILING = frozenset({Action.PROFILE, Action.AUTOMATE})


# --- the rules between members ------------------------------------------------------------------------------------


def _jurisdictions(policy: Policy) -> Iterator[Remark]:
    named: list[tuple[str, str]] = [(child("/markets", i), code) for i, code in enumerate(policy.markets)]
    if policy.controller.establishment is not None:
        named.append(("/controller/establishment", policy.controller.establishment))
    for at, purpose in _purposes(policy):
        named += [(child(child(at, "basis"), code), code) for code in purpose.basis if code != DEFAULT]
        named += [(child(child(at, "regions"), i), code) for i, code in enumerate(purpose.regions)]
    named += [(child("/overrides", code), code) for code in policy.overrides if code != DEFAULT]
    for pointer, code in named:
        if not is_jurisdiction(code):
            meant = OFTEN_MEANT.get(code[:2])
            yield (
                pointer,
                "error",
                f"{quoted(code)} is no ISO 3166 code" + (f": did you mean {quoted(meant)}?" if meant else ""),
            )


def _named_twice(policy: Policy) -> Iterator[Remark]:
    lists: list[tuple[str, Sequence[str]]] = [("/markets", policy.markets), ("/languages", policy.languages)]
    for at, purpose in _purposes(policy):
        lists += [
            (child(at, "actions"), purpose.actions),
            (child(at, "channels"), purpose.channels),
            (child(at, "topics"), purpose.topics),
            (child(at, "data"), purpose.data),
            (child(at, "recipients"), purpose.recipients),
            (child(at, "regions"), purpose.regions),
            (child(at, "exempt"), purpose.exempt),
        ]
    for at, words in lists:
        for index, word in enumerate(words):
            if word in words[:index]:
                yield child(at, index), "error", f"{quoted(word)} is named twice"


def _durations(policy: Policy) -> Iterator[Remark]:
    durations = [("/backdating_limit", policy.backdating_limit), ("/asking/cooldown", policy.asking.cooldown)]
    for at, purpose in _purposes(policy):
        durations.append((child(child(at, "consent"), "valid_for"), purpose.consent.valid_for))
        durations.append((child(at, "retention"), purpose.retention))
        durations += [(child(child(at, "relations"), name), age) for name, age in purpose.relations.items()]
    for at, text in durations:
        if text is not None and parse_duration(text) is None:
            yield at, "error", f"{quoted(text)} must be longer than nothing and at most 100 years"
    for at, purpose in _purposes(policy):
        kept, valid = (
            None if text is None else parse_duration(text) for text in (purpose.retention, purpose.consent.valid_for)
        )
        if kept is not None and valid is not None and kept != valid and shorter(kept, valid) == kept:
            yield child(at, "retention"), "warning", "the data are deleted before the consent to use them ends"


def _languages(policy: Policy) -> Iterator[Remark]:
    for key, notice in policy.notices.items():
        at = child(child("/notices", key), "text")
        for language in policy.languages:
            if language not in notice.text:
                yield at, "error", f"the notice {quoted(key)} has no text in {quoted(language)}"
        yield from _undeclared(policy, at, notice.text)
    titles = [(child("/purposes", key), purpose.title) for key, purpose in policy.purposes.items()]
    titles += [(child("/topics", key), topic.title) for key, topic in policy.topics.items()]
    for at, title in titles:
        for language in policy.languages:
            if title and language not in title:
                yield child(at, "title"), "warning", f"the title is missing in {quoted(language)}"
        yield from _undeclared(policy, child(at, "title"), title)


def _undeclared(policy: Policy, at: str, texts: Iterable[str]) -> Iterator[Remark]:
    for language in texts:
        if language not in policy.languages:
            yield child(at, language), "warning", f"{quoted(language)} is not one of the policy's languages"


def _references(policy: Policy) -> Iterator[Remark]:
    for at, purpose in _purposes(policy):
        if purpose.notice is not None and purpose.notice not in policy.notices:
            yield child(at, "notice"), "error", f"there is no notice {quoted(purpose.notice)}"
        for index, topic in enumerate(purpose.topics):
            if topic not in policy.topics:
                yield child(child(at, "topics"), index), "error", f"there is no topic {quoted(topic)}"
        if purpose.serves is not None and purpose.serves not in policy.purposes:
            yield child(at, "serves"), "error", f"there is no purpose {quoted(purpose.serves)}"
    for index, key in enumerate(policy.suspend.purposes):
        if key not in policy.purposes:
            yield child("/suspend/purposes", index), "error", f"there is no purpose {quoted(key)}"
    for key, one in policy.topics.items():
        if one.parent is not None and one.parent not in policy.topics:
            yield child(child("/topics", key), "parent"), "error", f"there is no topic {quoted(one.parent)}"
    used_notices = {purpose.notice for purpose in policy.purposes.values()}
    for key in policy.notices:
        if key not in used_notices:
            yield child("/notices", key), "warning", f"no purpose uses the notice {quoted(key)}"
    listed = {topic for purpose in policy.purposes.values() for topic in purpose.topics}
    used_topics = with_descendants(listed, policy.topics) | {topic.parent for topic in policy.topics.values()}
    for key in policy.topics:
        if key not in used_topics:
            yield child("/topics", key), "warning", f"no purpose uses the topic {quoted(key)}"


def _sending(policy: Policy) -> Iterator[Remark]:
    for at, purpose in _purposes(policy):
        if Action.SEND not in purpose.actions:
            if purpose.channels:
                yield child(at, "channels"), "warning", "channels are for purposes that send: this one may not"
            continue
        if purpose.message_class is None:
            yield at, "error", "a purpose that may send needs a class: marketing, service, transactional or emergency"
        if not purpose.channels:
            yield at, "error", "a purpose that may send needs channels"


def _bases(policy: Policy) -> Iterator[Remark]:
    for at, purpose in _purposes(policy):
        if DEFAULT not in purpose.basis:
            yield child(at, "basis"), "error", "the row “default” is missing: it answers where no other row does"
        bases = set(purpose.basis.values())
        asks = LawfulBasis.CONSENT in bases
        if asks and purpose.notice is None:
            yield at, "error", "a purpose that rests on consent needs a notice: what people agree to"
        if not asks and purpose.consent != ConsentTerms() and bases <= _WITHOUT_CHOICE:
            yield child(at, "consent"), "warning", "no basis of this purpose is consent: this has no effect"
        if LawfulBasis.SOFT_OPT_IN in bases and not purpose.relations:
            yield (
                at,
                "warning",
                "a soft opt-in needs relations, such as {purchase: P24M}: without them it permits nobody",
            )
        if purpose.message_class is MessageClass.MARKETING:
            yield from _marketing(at, purpose)


def _marketing(at: str, purpose: Purpose) -> Iterator[Remark]:
    for row, basis in purpose.basis.items():
        if basis in _WITHOUT_CHOICE:
            yield (
                child(child(at, "basis"), row),
                "warning",
                f"marketing on the basis {quoted(basis.value)} ignores refusals and objections: rarely lawful",
            )
    if Exemption.OBJECTION in purpose.exempt:
        yield (
            child(at, "exempt"),
            "warning",
            "an objection to direct marketing is absolute: exempt from it has no effect here",
        )


def _serving(policy: Policy) -> Iterator[Remark]:
    for key, purpose in policy.purposes.items():
        at = child(child("/purposes", key), "serves")
        if purpose.serves == key:
            yield at, "error", "a purpose cannot serve itself: name the one that it profiles for"
        elif purpose.serves is not None and not _PROFILING.intersection(purpose.actions):
            yield at, "warning", "serves is for purposes that profile or automate: add such an action, or remove it"


def _topic_parents(policy: Policy) -> Iterator[Remark]:
    for key, topic in policy.topics.items():
        above, parent = {key}, topic.parent
        while parent in policy.topics and parent not in above:
            above.add(parent)
            parent = policy.topics[parent].parent
        if parent == key:
            yield child(child("/topics", key), "parent"), "error", f"the topic {quoted(key)} is its own ancestor"


def _additions(policy: Policy) -> Iterator[Remark]:
    for key, notice in policy.notices.items():
        at = child("/notices", key)
        if notice.change is Change.EXTENDS and notice.adds == Additions():
            yield child(at, "change"), "error", "extends needs adds: the recipients or data that are new"
        if notice.change is not Change.EXTENDS and notice.adds != Additions():
            yield child(at, "adds"), "error", "adds belongs to change: extends; with another change remove it"
        users = [purpose for purpose in policy.purposes.values() if purpose.notice == key]
        recipients = {name for purpose in users for name in purpose.recipients}
        data = {name for purpose in users for name in purpose.data}
        for member, added, known in (
            ("recipients", notice.adds.recipients, recipients),
            ("data", notice.adds.data, data),
        ):
            for index, name in enumerate(added):
                if name not in known:
                    yield (
                        child(child(child(at, "adds"), member), index),
                        "error",
                        f"no purpose with this notice names {quoted(name)} in {member}",
                    )


def _switches(policy: Policy) -> Iterator[Remark]:
    if policy.suspend.workspace:
        yield "/suspend/workspace", "warning", "every question is denied until this is taken out"
    used = {channel for purpose in policy.purposes.values() for channel in purpose.channels}
    for index, channel in enumerate(policy.suspend.channels):
        if channel not in used:
            yield child("/suspend/channels", index), "warning", f"no purpose sends by {channel.value}"


def _time_in_force(policy: Policy) -> Iterator[Remark]:
    for at, purpose in _purposes(policy):
        start, end = purpose.active_from, purpose.retired_at
        if start is not None and end is not None and end <= start:
            yield child(at, "retired_at"), "error", "retired_at must be later than active_from"


_RULES: tuple[Callable[[Policy], Iterator[Remark]], ...] = (
    _jurisdictions,
    _named_twice,
    _durations,
    _languages,
    _references,
    _sending,
    _bases,
    _serving,
    _topic_parents,
    _additions,
    _switches,
    _time_in_force,
)


def _purposes(policy: Policy) -> Iterator[tuple[str, Purpose]]:
    return ((child("/purposes", key), purpose) for key, purpose in policy.purposes.items())


def _located(remarks: Iterable[Remark], lines: Mapping[str, int]) -> tuple[Finding, ...]:
    return _by_line(
        Finding(line=_line(pointer, lines), pointer=pointer, severity=severity, message=message)
        for pointer, severity, message in remarks
    )


def _line(pointer: str, lines: Mapping[str, int]) -> int:
    """Give the line of the nearest thing that is written: a missing member has the line of what it is missing in."""
    while pointer and pointer not in lines:
        pointer = pointer.rpartition("/")[0]
    return lines.get(pointer, 0)


def _by_line(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.pointer, finding.message)))
