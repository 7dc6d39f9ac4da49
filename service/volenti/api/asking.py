"""/p/{token}: the page that asks one person for one consent. Opening it changes nothing; its two buttons answer."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Final, assert_never

from volenti.api.endpoint import Call, Reply
from volenti.api.page import Words, accepted, language_of, notice_section, page, paragraph, spoken
from volenti.api.wire import AskingForm
from volenti.flows.ask_consent import Asking, Closed, Shown, Unread, answer, offer, show
from volenti.flows.open_link import NoLink

_WORDS: Final[dict[str, Words]] = {
    "en": {
        "ask": "Your choice",
        "by": "{controller} asks for your consent:",
        "yes": "I agree",
        "no": "I do not agree",
        "back": "I take it back",
        "date": "%d %B %Y",
        "agreed": "You agreed on {date}. You can take it back at any time.",
        "refused": "You have not agreed. You can change your mind at any time.",
        "late": "This link can no longer be used to agree. You can still refuse.",
        "unread": "Please read the text and choose once more: the page was open for too long, or the choice came too fast.",
        "closed": "This is no longer asked.",
        "none": "This link is not valid.",
    },
    "de": {
        "ask": "Ihre Entscheidung",
        "by": "{controller} bittet um Ihre Einwilligung:",
        "yes": "Ich stimme zu",
        "no": "Ich stimme nicht zu",
        "back": "Ich widerrufe",
        "date": "%d.%m.%Y",
        "agreed": "Sie haben am {date} zugestimmt. Sie können das jederzeit widerrufen.",
        "refused": "Sie haben nicht zugestimmt. Sie können das jederzeit ändern.",
        "late": "Mit diesem Link können Sie nicht mehr zustimmen, aber noch ablehnen.",
        "unread": "Bitte lesen Sie den Text und entscheiden Sie noch einmal: Die Seite war zu lange offen, oder die Antwort kam zu schnell.",
        "closed": "Danach wird nicht mehr gefragt.",
        "none": "Dieser Link ist nicht gültig.",
    },
}


async def open_asking(call: Call) -> Reply:
    """What the link asks for, and how the person has answered so far. Changes nothing, whoever opens it."""
    return await _page(call, await show(call.services, call.path["token"]))


async def answer_asking(call: Call) -> Reply:
    """Record the person's yes or no, and show what holds then."""
    form: AskingForm = call.body
    agrees = form.answer == "yes"
    return await _page(call, await answer(call.services, call.path["token"], agrees=agrees, shown=form.offer))


async def _page(call: Call, shown: Shown) -> Reply:
    wanted = accepted(call.headers.get("accept-language", ""))
    words = _WORDS[spoken(wanted)]
    match shown:
        case Asking():
            return await _asking(call, shown, language_of(shown.policy.document, wanted, shown.language))
        case Unread(asking=asking):
            chosen = language_of(asking.policy.document, wanted, asking.language)
            return await _asking(call, asking, chosen, unread=True)
        case Closed():
            return page(410, spoken(wanted), words["closed"])
        case NoLink():
            return page(404, spoken(wanted), words["none"])
        case _:
            assert_never(shown)


async def _asking(call: Call, asking: Asking, language: str, *, unread: bool = False) -> Reply:
    """The notice, what holds, and the buttons: to refuse is as easy as to agree (EDPB Guidelines 05/2020)."""
    document, words = asking.policy.document, _WORDS[spoken((language,))]
    said = [words["unread"]] if unread else []
    if asking.agreed_at is not None:
        date = datetime.fromtimestamp(asking.agreed_at / 1000, UTC).strftime(words["date"])
        said.append(words["agreed"].format(date=date))
    elif asking.refused:
        said.append(words["refused"])
    buttons = _button("no", words["no"] if asking.agreed_at is None else words["back"])
    if asking.agreed_at is None and asking.takes_yes:
        token = await offer(call.services, call.path["token"], asking, language)
        buttons = f'<input type="hidden" name="offer" value="{token}">{_button("yes", words["yes"])}{buttons}'
    elif asking.agreed_at is None:
        said.append(words["late"])
    channels = () if asking.channel is None else (asking.channel,)
    content = (
        paragraph(words["by"].format(controller=document.controller.name))
        + notice_section(document, asking.purpose, asking.text, channels, language)
        + "".join(paragraph(one) for one in said)
        + f'<form method="post">{buttons}</form>'
    )
    return page(409 if unread else 200, language, words["ask"], content)


def _button(value: str, text: str) -> str:
    return f'<button name="answer" value="{value}">{escape(text)}</button>'
