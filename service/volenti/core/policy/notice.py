"""What of a notice is published for ever: its version, its hash, and which version a grant must have seen."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from volenti.core.policy.document import Change, Notice


class PublishedNotice(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a notice as it was published. `hash` is that of `notice_hash`.

    `published_at` is from when on it may have been shown: since a policy that holds it came into force. None: not yet.
    """

    notice: str
    version: int
    change: Change
    hash: bytes
    published_at: datetime | None = None


def notice_hash(notice_key: str, notice: Notice) -> bytes:
    """Give the SHA-256 over the canonical JSON of `{key, text, version}`: what a person was told, in all languages."""
    told = {"key": notice_key, "text": notice.text, "version": notice.version}
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).digest()


def published_form(notice_key: str, notice: Notice) -> PublishedNotice:
    """Give what is to be remembered of a notice of the policy when it is published."""
    return PublishedNotice(
        notice=notice_key, version=notice.version, change=notice.change, hash=notice_hash(notice_key, notice)
    )


def newly_published(notices: Mapping[str, Notice], published: Sequence[PublishedNotice]) -> tuple[PublishedNotice, ...]:
    """Give the notice versions of a policy that were not published before, in the order of their keys."""
    known = {(one.notice, one.version) for one in published}
    return tuple(
        published_form(key, notice) for key, notice in sorted(notices.items()) if (key, notice.version) not in known
    )


def stood_on(notices: Mapping[str, Notice], published: Iterable[PublishedNotice]) -> tuple[PublishedNotice, ...]:
    """Give the published notice versions that a policy stands on: of each of its notices none newer than its own.

    A newer one belongs to a policy that waits for its day, or that was rolled back: it must not outdate these grants.
    """
    return tuple(one for one in published if one.notice not in notices or one.version <= notices[one.notice].version)


def required_version(history: Iterable[PublishedNotice]) -> int:
    """Give the oldest version whose grants are not stale: the newest with a material change.

    `history` holds versions of one notice, at least one. The first version ever counts as material, since there was
    nothing before it that it could be a minor change of.
    """
    versions = sorted(history, key=lambda one: one.version)
    return max(one.version for one in versions if one.change is Change.MATERIAL or one is versions[0])
