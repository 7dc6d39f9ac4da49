"""What the pages have in common that people open by a link: frame, languages, notices. They load nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, TypeAlias

from volenti.api.endpoint import Reply
from volenti.core.policy.document import NoticeText, Policy

HTML: Final = "text/html; charset=utf-8"
Words: TypeAlias = Mapping[str, str]
"""What a page says, by name, in one language."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
}
SPOKEN: Final = ("en", "de")
"""The languages that the pages themselves speak; the notices are in those of the policy."""
_CHANNELS: Final[dict[str, Words]] = {
    "en": {"email": "e-mail", "sms": "text message", "push": "push notification", "voice": "phone", "inapp": "in the app"},
    "de": {"email": "E-Mail", "sms": "SMS", "push": "Push-Nachricht", "voice": "Telefon", "inapp": "in der App", "post": "Post"},
}  # fmt: skip
_BY: Final = {"en": "By: {channels}", "de": "Per: {channels}"}


def accepted(header: str) -> tuple[str, ...]:
    """The languages of an Accept-Language header, the most wanted first (RFC 9110, section 12.5.4)."""
    found = []
    for part in header.split(",")[:20]:
        match = re.fullmatch(r"\s*([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", part)
        if match is not None and float(match[2] or 1) > 0:
            found.append((-float(match[2] or 1), match[1]))
    return tuple(tag for _, tag in sorted(found, key=lambda one: one[0]))


def language_of(policy: Policy, wanted: Sequence[str], own: str) -> str:
    """The language of the page: what the browser asks for, else the person's own, else the policy's first."""
    for tag in (*wanted, own):
        for known in policy.languages:
            if tag and (tag.lower() == known.lower() or tag.partition("-")[0].lower() == known.lower()):
                return known
    return policy.languages[0]


def spoken(languages: Sequence[str]) -> str:
    """A language that the page itself speaks."""
    return next((tag[:2].lower() for tag in languages if tag[:2].lower() in SPOKEN), "en")


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def notice_section(
    policy: Policy, purpose: str, text: Mapping[str, NoticeText], channels: Sequence[str], language: str
) -> str:
    """The words that a person agrees to, and by which channels; without a notice, the title of the purpose."""
    words = text.get(language) or next(iter(text.values()), None)
    title = _title(policy, purpose, language) if words is None else words.title
    body = "" if words is None else "".join(paragraph(part) for part in words.body.splitlines())
    names = [_CHANNELS[spoken((language,))].get(channel, channel) for channel in channels]
    by = paragraph(_BY[spoken((language,))].format(channels=", ".join(names))) if names else ""
    return f'<section lang="{escape(language)}"><h2>{escape(title)}</h2>{body}{by}</section>'


def page(status: int, language: str, title: str, content: str = "") -> Reply:
    """A whole page in the language that it speaks itself; `content` is HTML."""
    html = _TEMPLATE.format(language=spoken((language,)), title=escape(title), content=content)
    return Reply(html, status=status, media=HTML, headers=_HEADERS)


def _title(policy: Policy, purpose: str, language: str) -> str:
    return policy.purposes[purpose].title.get(language, purpose) if purpose in policy.purposes else purpose


_TEMPLATE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 0 auto; max-width: 34rem; padding: 2rem 1.25rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; }} h2 {{ font-size: 1.15rem; margin-bottom: .25rem; }}
section {{ border-inline-start: .25rem solid #2a6f97; padding-inline-start: 1rem; margin: 1.25rem 0; }}
form {{ display: flex; flex-wrap: wrap; gap: .75rem; }}
button {{ font: inherit; font-weight: 600; padding: .75rem 1.5rem; border: 0; border-radius: .5rem; background: #1d5476; color: #fff; cursor: pointer; }}
button:focus-visible {{ outline: .2rem solid #f4a261; outline-offset: .15rem; }}
</style></head><body><main>
<h1>{title}</h1>
{content}
</main></body></html>
"""
