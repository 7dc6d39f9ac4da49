"""/c/{token}: the page of a double opt-in. Opening it changes nothing; its one button confirms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final, TypeAlias, assert_never

from volenti.api.endpoint import Call, Reply
from volenti.core.policy.document import Policy
from volenti.flows.confirm_consent import Confirmed, Expired, NoLink, Offered, Settled, Shown, Waiting, confirm, show

HTML: Final = "text/html; charset=utf-8"
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
}
Words: TypeAlias = dict[str, str]
_WORDS: Final[dict[str, Words]] = {
    "en": {
        "ask": "Please confirm",
        "by": "{controller} asks for your consent:",
        "channels": "By: {channels}",
        "button": "Yes, I confirm",
        "ignore": "If this was not you, close this page: nothing happens then.",
        "done": "Thank you. Your consent is confirmed.",
        "undo": "You can take it back at any time.",
        "expired": "This link has expired. Please sign up again to get a new one.",
        "settled": "This request is no longer open: it was withdrawn, or there is a newer one.",
        "none": "This link is not valid.",
    },
    "de": {
        "ask": "Bitte bestätigen",
        "by": "{controller} bittet um Ihre Einwilligung:",
        "channels": "Per: {channels}",
        "button": "Ja, ich bestätige",
        "ignore": "Wenn Sie das nicht waren, schließen Sie diese Seite: Dann geschieht nichts.",
        "done": "Danke. Ihre Einwilligung ist bestätigt.",
        "undo": "Sie können sie jederzeit widerrufen.",
        "expired": "Dieser Link ist abgelaufen. Bitte melden Sie sich noch einmal an.",
        "settled": "Diese Anfrage ist nicht mehr offen: Sie wurde widerrufen, oder es gibt eine neuere.",
        "none": "Dieser Link ist nicht gültig.",
    },
}
_CHANNELS: Final[dict[str, Words]] = {
    "en": {"email": "e-mail", "sms": "text message", "push": "push notification", "voice": "phone", "inapp": "in the app"},
    "de": {"email": "E-Mail", "sms": "SMS", "push": "Push-Nachricht", "voice": "Telefon", "inapp": "in der App", "post": "Post"},
}  # fmt: skip


async def open_page(call: Call) -> Reply:
    """What a confirmation link asks for. Changes nothing, whoever opens it."""
    return _page(call, await show(call.services, call.path["token"]))


async def confirm_page(call: Call) -> Reply:
    """Confirm what the link asks for; again, it adds nothing."""
    return _page(call, await confirm(call.services, call.path["token"]))


def _page(call: Call, shown: Shown) -> Reply:
    accepted = _accepted(call.headers.get("accept-language", ""))
    match shown:
        case Waiting(policy=policy, offered=offered, language=language):
            chosen = _language(policy.document, accepted, language)
            return _reply(200, chosen, "ask", _asking(policy.document, offered, chosen))
        case Confirmed(policy=policy, language=language):
            chosen = _language(policy.document, accepted, language)
            return _reply(200, chosen, "done", _paragraph(chosen, "undo"))
        case Expired():
            return _reply(410, _spoken(accepted), "expired")
        case Settled():
            return _reply(410, _spoken(accepted), "settled")
        case NoLink():
            return _reply(404, _spoken(accepted), "none")
        case _:
            assert_never(shown)


def _asking(policy: Policy, offered: Sequence[Offered], language: str) -> str:
    words = _words(language)
    notices = "".join(_notice(policy, one, language) for one in offered)
    return (
        f"<p>{escape(words['by'].format(controller=policy.controller.name))}</p>{notices}"
        f'<form method="post"><button>{escape(words["button"])}</button></form>{_paragraph(language, "ignore")}'
    )


def _notice(policy: Policy, offered: Offered, language: str) -> str:
    """The words that the person agrees to: those that the request named, whatever the policy says today."""
    text = offered.text.get(language) or next(iter(offered.text.values()), None)
    body = (
        f"<h2>{escape(_title(policy, offered.purpose, language))}</h2>"
        if text is None
        else f"<h2>{escape(text.title)}</h2>" + "".join(f"<p>{escape(part)}</p>" for part in text.body.splitlines())
    )
    names = [_CHANNELS[_spoken((language,))].get(channel, channel) for channel in offered.channels]
    by = f"<p>{escape(_words(language)['channels'].format(channels=', '.join(names)))}</p>" if names else ""
    return f'<section lang="{escape(language)}">{body}{by}</section>'


def _title(policy: Policy, purpose: str, language: str) -> str:
    return policy.purposes[purpose].title.get(language, purpose) if purpose in policy.purposes else purpose


def _accepted(header: str) -> tuple[str, ...]:
    """The languages of an Accept-Language header, the most wanted first (RFC 9110, section 12.5.4)."""
    found = []
    for part in header.split(",")[:20]:
        match = re.fullmatch(r"\s*([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", part)
        if match is not None and float(match[2] or 1) > 0:
            found.append((-float(match[2] or 1), match[1]))
    return tuple(tag for _, tag in sorted(found, key=lambda one: one[0]))


def _language(policy: Policy, accepted: Sequence[str], own: str) -> str:
    """The language of the page: what the browser asks for, else the person's own, else the policy's first."""
    for wanted in (*accepted, own):
        for known in policy.languages:
            if wanted and (wanted.lower() == known.lower() or wanted.partition("-")[0].lower() == known.lower()):
                return known
    return policy.languages[0]


def _spoken(languages: Sequence[str]) -> str:
    """A language that the page itself speaks."""
    return next((tag[:2].lower() for tag in languages if tag[:2].lower() in _WORDS), "en")


def _words(language: str) -> Words:
    return _WORDS[_spoken((language,))]


def _paragraph(language: str, word: str) -> str:
    return f"<p>{escape(_words(language)[word])}</p>"


def _reply(status: int, language: str, title: str, content: str = "") -> Reply:
    heading = escape(_words(language)[title])
    html = _TEMPLATE.format(language=_spoken((language,)), title=heading, content=content)
    return Reply(html, status=status, media=HTML, headers=_HEADERS)


_TEMPLATE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 0 auto; max-width: 34rem; padding: 2rem 1.25rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; }} h2 {{ font-size: 1.15rem; margin-bottom: .25rem; }}
section {{ border-inline-start: .25rem solid #2a6f97; padding-inline-start: 1rem; margin: 1.25rem 0; }}
button {{ font: inherit; font-weight: 600; padding: .75rem 1.5rem; border: 0; border-radius: .5rem; background: #1d5476; color: #fff; cursor: pointer; }}
button:focus-visible {{ outline: .2rem solid #f4a261; outline-offset: .15rem; }}
</style></head><body><main>
<h1>{title}</h1>
{content}
</main></body></html>
"""
