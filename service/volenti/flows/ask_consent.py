"""A link that asks one person for one consent: when there is one, what its page shows, and the two answers it takes."""

from __future__ import annotations

from typing import TypeAlias, assert_never
from uuid import UUID

import msgspec

from volenti.core.admission import Choice, Command, Refusal, ShownOffer
from volenti.core.asking import a_page_suffices
from volenti.core.consent import Standing
from volenti.core.data_subject import DataSubjectState, Evidence, Identifier
from volenti.core.decision import Permit, Question, evaluate, requestable
from volenti.core.policy.compile import CompiledPolicy, in_force
from volenti.core.policy.document import Channel, NoticeText
from volenti.errors import Unavailable
from volenti.flows.check_policy import Checked
from volenti.flows.find_data_subject import Person
from volenti.flows.issue_offer import OfferIssued, issue, present
from volenti.flows.open_link import NoLink, open_link
from volenti.flows.record_consents import IdentifierTaken, KeyMisused, Recorded, record
from volenti.flows.services import Services
from volenti.keys.links import AskingLink, read_asking, sign_asking
from volenti.keys.tokens import OfferRefused

METHOD = "preference_link"
COMPONENT = "preference_page"
LIFE_DAYS = 30
_DAY_MS = 86_400_000


class Asking(msgspec.Struct, frozen=True):
    """What the page puts before the person.

    `text`: the words of the notice in force, by language; `language` is the person's own, or empty. `agreed_at`: when
    they gave the consent that is in force (milliseconds UTC), None without one; `refused`: what stands is a no.
    `takes_yes` is False where the link is too old, or a page alone cannot take this consent: it still takes a no.
    """

    policy: CompiledPolicy
    purpose: str
    channel: str | None
    text: dict[str, NoticeText]
    language: str
    agreed_at: int | None
    refused: bool
    takes_yes: bool


class Closed(msgspec.Struct, frozen=True):
    """The link was good; the policy has no such purpose any more, or nothing to show for it."""


class Unread(msgspec.Struct, frozen=True):
    """A yes that nothing proves: what it was given to was shown too long ago, was used before, or was not read. Nothing is recorded."""

    asking: Asking


Shown: TypeAlias = Asking | Closed | Unread | NoLink


def link_for(services: Services, workspace_id: UUID, checked: Checked) -> tuple[str, int] | None:
    """The token of the page that asks for what a denied question lacks, and when it ends (milliseconds UTC); None: none may.

    Deterministic: the same for equal questions of one day (UTC). A person whom nobody knows has none.
    """
    if checked.holder is None or not requestable(
        checked.policy, checked.state, checked.question, checked.decision, checked.evaluated_at
    ):
        return None
    expires_at = (checked.evaluated_at // _DAY_MS + LIFE_DAYS) * _DAY_MS
    question = checked.question
    link = AskingLink(workspace_id, checked.holder, question.purpose, question.channel, expires_at // 1000)
    return sign_asking(services.keyring, link), expires_at


async def show(services: Services, token: str) -> Asking | Closed | NoLink:
    """What a link asks for now. Changes nothing. Raises Unavailable without a database."""
    opened = await _open(services, token)
    return opened[2] if isinstance(opened, tuple) else opened


async def offer(services: Services, token: str, asking: Asking, language: str) -> str:
    """The signed statement of what the page shows, which its yes must bring back. Raises Unavailable without a database."""
    link = read_asking(services.keyring, token)
    assert link is not None, "the page was opened with it"
    surface = services.settings.base_url
    issued = await issue(
        services, link.workspace, [(asking.purpose, False)], surface, language, component=COMPONENT
    )  # to nobody by name: that a page was opened is no question that was put
    if not isinstance(issued, OfferIssued):
        raise Unavailable("the policy changed while the page was made; open it again")
    return issued.token


async def answer(services: Services, token: str, *, agrees: bool, shown: str) -> Shown:
    """Record the person's answer, and give the page after it. A no that stands already adds nothing.

    `shown` is the offer that the page carried; a yes without it proves nothing. Raises Unavailable without a database.
    """
    opened = await _open(services, token)
    if not isinstance(opened, tuple):
        return opened
    link, person, asking = opened
    channels = () if link.channel is None else (link.channel,)
    if agrees and not asking.takes_yes:
        return asking
    if agrees:
        offered = present(services, link.workspace, shown)
        if isinstance(offered, OfferRefused) or offered.purposes != {link.purpose}:
            return Unread(asking)
        (notice,) = offered.notices
        choice = Choice(kind="grant", purpose=link.purpose, channels=channels, notice=notice)
        command = _command(services, choice, Evidence(offer=offered.id), offered)
    elif all(_own_no(standing) for standing in _standings(person.state, link)):
        return asking
    else:
        choice = Choice(kind="withdraw" if asking.agreed_at else "deny", purpose=link.purpose, channels=channels)
        command = _command(services, choice)
    caller_id = person.state.caller_id()
    assert caller_id is not None, "every person has an id"
    recording = await record(services, link.workspace, command, (Identifier("id", caller_id),))
    match recording:
        case Recorded():
            return await show(services, token)
        case Refusal(code="offer_invalid" | "resubscribe_requires_data_subject_act"):
            return Unread(asking)
        case Refusal():  # a page alone cannot take this consent, as where the person is too young
            return msgspec.structs.replace(asking, takes_yes=False)
        case KeyMisused() | IdentifierTaken():
            raise Unavailable("the answer could not be recorded; try again")
        case _:
            assert_never(recording)


def _command(
    services: Services, choice: Choice, evidence: Evidence | None = None, offer: ShownOffer | None = None
) -> Command:
    return Command(
        actor="data_subject",
        component=COMPONENT,
        choices=(choice,),
        method=METHOD,
        surface=services.settings.base_url,
        evidence=evidence,
        offer=offer,
    )


async def _open(services: Services, token: str) -> tuple[AskingLink, Person, Asking] | Closed | NoLink:
    link = read_asking(services.keyring, token)
    opened = None if link is None else await open_link(services, link.workspace, link.holder)
    if link is None or opened is None:
        return NoLink()
    person, policy = opened
    asking = _asking(policy, person.state, link, services.clock())
    return Closed() if asking is None else (link, person, asking)


def _asking(policy: CompiledPolicy, state: DataSubjectState, link: AskingLink, now: int) -> Asking | None:
    purpose = policy.purposes.get(link.purpose)
    if purpose is None or purpose.notice is None:
        return None
    return Asking(
        policy=policy,
        purpose=purpose.key,
        channel=link.channel,
        text=policy.document.notices[purpose.notice].text,
        language=state.locale,
        agreed_at=_agreed_at(policy, state, link, now),
        refused=any(standing.refusal is not None for standing in _standings(state, link)),
        takes_yes=now < link.expires_at * 1000 and a_page_suffices(purpose, state, now) and in_force(purpose, now),
    )


def _agreed_at(policy: CompiledPolicy, state: DataSubjectState, link: AskingLink, now: int) -> int | None:
    """When the consent was given that carries anything that the purpose does; None if no consent does."""
    channel = None if link.channel is None else Channel(link.channel)
    for action in sorted(policy.purposes[link.purpose].actions):
        decision = evaluate(policy, state, Question(action=action, purpose=link.purpose, channel=channel), now)
        given = decision.reasons[0]
        if isinstance(decision, Permit) and given.reason.code == "consent.granted" and given.event is not None:
            return given.event.occurred_at
    return None


def _standings(state: DataSubjectState, link: AskingLink) -> list[Standing]:
    choices = state.choices(link.purpose)
    return [*choices.standings.values()] if link.channel is None else [choices.standing(link.channel)]


def _own_no(standing: Standing) -> bool:
    return standing.own_refusal is not None and standing.pending is None
