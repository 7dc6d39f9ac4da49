"""/c/{token}: the page of a double opt-in. Opening it changes nothing; its one button confirms."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, assert_never

from volenti.api.endpoint import Call, Reply
from volenti.api.page import Words, accepted, language_of, notice_section, page, paragraph, spoken
from volenti.core.policy.document import Policy
from volenti.flows.confirm_consent import Confirmed, Expired, Offered, Settled, Shown, Waiting, confirm, show
from volenti.flows.open_link import NoLink

_WORDS: Final[dict[str, Words]] = {
    "en": {
        "ask": "Please confirm",
        "by": "{controller} asks for your consent:",
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
        "button": "Ja, ich bestätige",
        "ignore": "Wenn Sie das nicht waren, schließen Sie diese Seite: Dann geschieht nichts.",
        "done": "Danke. Ihre Einwilligung ist bestätigt.",
        "undo": "Sie können sie jederzeit widerrufen.",
        "expired": "Dieser Link ist abgelaufen. Bitte melden Sie sich noch einmal an.",
        "settled": "Diese Anfrage ist nicht mehr offen: Sie wurde widerrufen, oder es gibt eine neuere.",
        "none": "Dieser Link ist nicht gültig.",
    },
}


async def open_page(call: Call) -> Reply:
    """What a confirmation link asks for. Changes nothing, whoever opens it."""
    return _page(call, await show(call.services, call.path["token"]))


async def confirm_page(call: Call) -> Reply:
    """Confirm what the link asks for; again, it adds nothing."""
    return _page(call, await confirm(call.services, call.path["token"]))


def _page(call: Call, shown: Shown) -> Reply:
    wanted = accepted(call.headers.get("accept-language", ""))
    words = _WORDS[spoken(wanted)]
    match shown:
        case Waiting(policy=policy, offered=offered, language=own):
            chosen = language_of(policy.document, wanted, own)
            return page(200, chosen, _words(chosen)["ask"], _asking(policy.document, offered, chosen))
        case Confirmed(policy=policy, language=own):
            chosen = language_of(policy.document, wanted, own)
            return page(200, chosen, _words(chosen)["done"], paragraph(_words(chosen)["undo"]))
        case Expired():
            return page(410, spoken(wanted), words["expired"])
        case Settled():
            return page(410, spoken(wanted), words["settled"])
        case NoLink():
            return page(404, spoken(wanted), words["none"])
        case _:
            assert_never(shown)


def _asking(policy: Policy, offered: Sequence[Offered], language: str) -> str:
    """What waits, in the words that the requests named, whatever the policy says today; and the one button."""
    words = _words(language)
    notices = "".join(notice_section(policy, one.purpose, one.text, one.channels, language) for one in offered)
    return (
        f"{paragraph(words['by'].format(controller=policy.controller.name))}{notices}"
        f'<form method="post"><button>{escape(words["button"])}</button></form>{paragraph(words["ignore"])}'
    )


def _words(language: str) -> Words:
    return _WORDS[spoken((language,))]
