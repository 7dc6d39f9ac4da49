"""Bar 5: how fast a question is decided in process, against two other engines that decide the same question.

    usual   the starter policy, 50 people in Germany with up to eight choices, 12 questions about each
    worst   200 purposes, 40 topics, two jurisdictions at once, people with 24 choices on each purpose, 60 questions each

`core.decision.evaluate` ∥ `cedarpy.is_authorized` ∥ `regopy`, one thread each, in turn. Before anything is measured, all
three must answer every question alike. What is alike, and what is not, is in favour of the others:

- Their policies and entities or data are parsed and compiled beforehand (`PolicySet`, `Entities`, `Bundle`), Rego's inputs
  too. Cedar's requests are dicts with the context as JSON text, of all that it takes the fastest.
- The law of each place is the compiled one of Volenti, with months counted as days; which row binds is looked up for them.
- A person's choices are folded for them: they get the standing per purpose and channel. Volenti folds a state when it is
  first asked about, and keeps that with the state; `unasked` gives it a state that nobody asked about, at each question.
- They answer yes or no. Volenti says also why and on what evidence, with which obligations and until when.
- They do not look at retention, guardians, notices that extend, suspensions, addresses or the purposes that serve another;
  none of it decides a question here.

Exit code: 0 all gates hold, 1 one does not, 2 the engines do not agree.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cedarpy
import msgspec
import regopy

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import Meter, own, surroundings, take_turns, tell
from bench.worlds import DAY, NOW, SEED, World, usual, worst

from volenti.core.consent import ConsentEvent, Standing, scopes, settle
from volenti.core.data_subject import DataSubjectState, comes_of_age
from volenti.core.decision import Permit, Question, evaluate
from volenti.core.policy.compile import CompiledPurpose, terms_for
from volenti.core.policy.document import LawfulBasis, RelationType, grade_number
from volenti.core.policy.duration import Duration
from volenti.core.validity import places_of

PEERS = Path(__file__).parent / "peers"
GATES = {("usual", "cedarpy"): 10.0, ("usual", "regopy"): 10.0}
"""By world and engine, of the ratio per CPU-second; docs/decisions/0021 says why the worst is only printed."""
GOAL = 100.0
EVER = 1 << 52
"""Longer than anything lasts; added to an instant it is still an exact number for every engine."""

_NEEDS = {
    LawfulBasis.CONTRACT: "nothing",
    LawfulBasis.LEGAL_OBLIGATION: "nothing",
    LawfulBasis.VITAL_INTEREST: "nothing",
    LawfulBasis.CONSENT: "consent",
    LawfulBasis.SOFT_OPT_IN: "relation",
    LawfulBasis.PROHIBITED: "prohibited",
}
"""What permits besides a grant, in the words of the peers' policies; every other basis needs that nobody objects."""


# --- the sides


class Side:
    """Decides the questions of a world again and again; what it decided must stay what it was."""

    clients: frozenset[str] = frozenset()
    meters: Mapping[str, Meter] = {"own": own}

    def __init__(self, name: str, decide: Sequence[Callable[[], bool]], expected: Sequence[bool]) -> None:
        self.name, self._decide, self._expected = name, decide, list(expected)

    def decided(self) -> list[bool]:
        return [decide() for decide in self._decide]

    async def prepare(self, seconds: float) -> None:
        """Nothing: all is prepared."""

    async def run(self, seconds: float) -> tuple[int, float]:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            begin = count % len(self._decide)
            some = self._decide[begin : begin + 20]
            assert [decide() for decide in some] == self._expected[begin : begin + 20]
            count += len(some)
        return count, time.perf_counter() - begun


def volenti(world: World) -> list[Callable[[], bool]]:
    def deciding(state: DataSubjectState, question: Question) -> Callable[[], bool]:
        policy = world.policy
        return lambda: type(evaluate(policy, state, question, NOW)) is Permit

    return [deciding(world.people[person], question) for person, question in world.cases]


def unasked(world: World) -> list[Callable[[], bool]]:
    """The same with states as they come from the database: nothing is folded yet."""

    def deciding(state: DataSubjectState, question: Question) -> Callable[[], bool]:
        policy = world.policy
        return lambda: type(evaluate(policy, msgspec.structs.replace(state), question, NOW)) is Permit

    return [deciding(world.people[person], question) for person, question in world.cases]


def cedar(world: World) -> list[Callable[[], bool]]:
    policies = cedarpy.PolicySet.from_str((PEERS / "evaluate.cedar").read_text(encoding="utf-8"))
    entities = cedarpy.Entities.from_json_str(json.dumps(_entities(world)))
    allow = cedarpy.Decision.Allow

    def deciding(request: dict[str, Any]) -> Callable[[], bool]:
        return lambda: cedarpy.is_authorized(request, policies, entities).decision is allow

    return [deciding(_request(world, *case)) for case in world.cases]


def rego(world: World) -> list[Callable[[], bool]]:
    engine = regopy.Interpreter()
    engine.add_module("volenti", (PEERS / "evaluate.rego").read_text(encoding="utf-8"))
    engine.add_data(_data(world))
    bundle = engine.build("data.volenti.allow")

    def deciding(given: regopy.Input) -> Callable[[], bool]:
        def decide() -> bool:
            engine.set_input(given)
            return bool(engine.query_bundle(bundle)[0].expressions == [True])

        return decide

    return [deciding(regopy.Input(_input(world, *case))) for case in world.cases]


# --- the same facts for the others


def _places(world: World, person: int, question: Question) -> list[str]:
    """The rows of the purpose's terms that bind, by the keys under which the others find them."""
    return [
        f"{question.action}/{question.channel or ''}/{place}"
        for place in dict.fromkeys(places_of(world.people[person], question.jurisdiction))
    ]


def _standing_key(question: Question) -> str:
    return f"{question.purpose}/{question.channel or ''}"


def _standings(world: World, person: int) -> dict[str, dict[str, Any]]:
    """By "purpose/channel", of what is asked about the person: how it stands, and what the grant was."""
    found = {}
    for _, question in (case for case in world.cases if case[0] == person):
        standing = _standing(world, world.people[person], question)
        event = standing.decided_by
        if event is not None:
            found[_standing_key(question)] = {
                "state": standing.state,
                "since": event.occurred_at,
                "version": _version(standing),
                "grade": event.grade,
                "of_age": event.age_of_consent is not None,
            }
    return found


def _standing(world: World, state: DataSubjectState, question: Question) -> Standing:
    """What decides: an objection to the purpose that this one serves, a current grant of any channel if none is asked for."""
    purpose = world.policy.purposes[question.purpose]
    own, served = state.on(purpose.key), state.on(purpose.serves or "")
    objections = [standing for standing in _all(served) if standing.state == "objected"]
    standings = _all(own) if question.channel is None else [settle(own, question.channel)]
    required = purpose.required_notice_version or 0
    current = [one for one in standings if one.state == "granted" and _version(one) >= required]
    return (*objections, *current, *standings)[0]


def _all(events: tuple[ConsentEvent, ...]) -> list[Standing]:
    return [settle(events, channel) for channel in scopes(events)]


def _version(standing: Standing) -> int:
    notice = None if standing.decided_by is None else standing.decided_by.notice
    return int((notice or "@0").rpartition("@")[2])


def _person(state: DataSubjectState) -> dict[str, Any]:
    tied = {kind: fact.occurred_at for kind, fact in state.relations.items()}
    return {
        "restricted": state.restriction is not None,
        "born": comes_of_age(state.birth_date, 0) if state.birth_date else 0,
        "purchase": tied.get("purchase", -EVER),
        "inquiry": tied.get("inquiry", -EVER),
    }


def _terms(world: World, key: str) -> dict[str, dict[str, Any]]:
    """By "action/channel/place", of what is asked about the purpose: the compiled terms, as lengths in milliseconds."""
    found = {}
    purpose = world.policy.purposes[key]
    for person, question in (case for case in world.cases if case[1].purpose == key):
        for name in _places(world, person, question):
            terms = terms_for(purpose, question.action, question.channel, (name.rpartition("/")[2],))
            lives = [_length(life) for life in (purpose.valid_for, terms.consent_expiry) if life is not None]
            ties = {
                kind: EVER if rule.max_age is None else _length(rule.max_age) for kind, rule in terms.relations.items()
            }
            found[name] = {
                "basis": terms.basis,
                "needs": _NEEDS.get(terms.basis, "silence"),
                "lasts": min(lives, default=EVER),
                "of_age": 0 if terms.age_of_consent is None else round(terms.age_of_consent * 365.25 * DAY),
                "purchase": ties.get(RelationType.PURCHASE, 0),
                "inquiry": ties.get(RelationType.INQUIRY, 0),
            }  # fmt: skip
    return found


def _length(duration: Duration) -> int:
    return round((duration.months * 30.4375 + duration.days) * DAY) + duration.seconds * 1000


def _limits(purpose: CompiledPurpose) -> dict[str, int]:
    return {
        "active_from": 0 if purpose.active_from_ms is None else purpose.active_from_ms,
        "retired_at": EVER if purpose.retired_at_ms is None else purpose.retired_at_ms,
        "version": purpose.required_notice_version or 0,
        "grade": grade_number(purpose.minimum_evidence),
    }


def _entities(world: World) -> list[dict[str, Any]]:
    people = [
        {
            "uid": {"type": "Person", "id": str(person)},
            "attrs": _person(state),
            "tags": _standings(world, person),
            "parents": [],
        }
        for person, state in enumerate(world.people)
    ]
    purposes = [
        {
            "uid": {"type": "Purpose", "id": key},
            "attrs": {
                "actions": [{"__entity": {"type": "Action", "id": action}} for action in sorted(purpose.actions)],
                "channels": sorted(purpose.channels),
                "topics": sorted(purpose.topics or world.policy.document.topics),
                "data": sorted(purpose.data),
                "recipients": sorted(purpose.recipients),
                "regions": sorted(purpose.regions),
                **_limits(purpose),
            },
            "tags": {
                name: {member: value for member, value in terms.items() if member != "needs"}
                for name, terms in _terms(world, key).items()
            },
            "parents": [],
        }
        for key, purpose in world.policy.purposes.items()
    ]
    return [*people, *purposes]


def _request(world: World, person: int, question: Question) -> dict[str, Any]:
    places = dict(zip(("here", "there"), _places(world, person, question), strict=False))
    optional = {
        "channel": question.channel,
        "topic": question.topic,
        "recipient": question.recipient,
        "region": question.region,
    }
    context = places | {name: value for name, value in optional.items() if value is not None}
    return {
        "principal": {"type": "Person", "id": str(person)},
        "action": {"type": "Action", "id": str(question.action)},
        "resource": {"type": "Purpose", "id": question.purpose},
        "context": json.dumps(
            context | {"now": NOW, "data": question.data_categories, "standing": _standing_key(question)}
        ),
    }


def _data(world: World) -> dict[str, Any]:
    """Sets are objects here, for which Rego looks up a member; the empty text is what was not asked."""

    def among(members: Any) -> dict[str, bool]:
        return {str(member): True for member in members} | {"": True}

    purposes = {
        key: {
            "actions": among(purpose.actions),
            "channels": among(purpose.channels),
            "topics": among(purpose.topics or world.policy.document.topics),
            "data": among(purpose.data),
            "recipients": among(purpose.recipients),
            "regions": among(purpose.regions),
            "terms": _terms(world, key),
            **_limits(purpose),
        }
        for key, purpose in world.policy.purposes.items()
    }
    people = {
        str(person): _person(state) | {"standings": _standings(world, person)}
        for person, state in enumerate(world.people)
    }
    return {"purposes": purposes, "people": people}


def _input(world: World, person: int, question: Question) -> dict[str, Any]:
    return {
        "person": str(person),
        "purpose": question.purpose,
        "action": str(question.action),
        "channel": question.channel or "",
        "topic": question.topic or "",
        "data": list(question.data_categories),
        "recipient": question.recipient or "",
        "region": question.region or "",
        "now": NOW,
        "standing": _standing_key(question),
        "places": _places(world, person, question),
    }


# --- the run


ENGINES = {"volenti": volenti, "unasked": unasked, "cedarpy": cedar, "regopy": rego}


def agreed(world: World, sides: Sequence[Side]) -> list[str]:
    """Where the engines do not answer alike, in words."""
    answers = {side.name: side.decided() for side in sides}
    return [
        f"{world.name}: question {number} {question}: {found}"
        for number, (_, question) in enumerate(world.cases)
        if len(set((found := {name: given[number] for name, given in answers.items()}).values())) > 1
    ]


async def measured(seconds: float, pairs: int) -> tuple[list[dict[str, Any]], list[str]]:
    bars, wrong = [], []
    for world in (usual(), worst()):
        expected = [decide() for decide in volenti(world)]
        tell(f"{world.name}: {dict(Counter('permit' if one else 'deny' for one in expected))}")
        sides = [Side(name, engine(world), expected) for name, engine in ENGINES.items()]
        if differences := agreed(world, sides):
            wrong += differences
            continue
        turns = await take_turns(sides, pairs=pairs, seconds=seconds)
        for other in ("cedarpy", "regopy"):
            figure = f"evaluate against {other}, {world.name}"
            gate = GATES.get((world.name, other))
            bars.append(turns.bar(5, figure, "volenti", other, gate=gate, goal=GOAL, by_cpu=True))
            figure += ", states unasked"
            bars.append(turns.bar(5, figure, "unasked", other, gate=None, goal=GOAL, by_cpu=True))
    return bars, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn")
    parser.add_argument("--pairs", type=int, default=15, help="turns of each side; at least five make a gate")
    given = parser.parse_args()
    bars, wrong = asyncio.run(measured(given.seconds, given.pairs))
    line = {
        "benchmark": "evaluate",
        **surroundings(),
        "peers": {name: importlib.metadata.version(name) for name in ("cedarpy", "regopy")},
        "seconds": given.seconds,
        "pairs": given.pairs,
        "seed": SEED,
        "bars": bars,
        "wrong": wrong,
    }
    print(json.dumps(line))
    below = [bar for bar in bars if bar["holds"] is False]
    for bar in below:
        tell(f"bar {bar['bar']} does not hold: {bar[bar['gated']]} is below {bar['gate']} ({bar['figure']})")
    for sentence in wrong[:10]:
        tell(f"wrong: {sentence}")
    return 2 if wrong else 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
