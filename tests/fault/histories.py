"""What clients saw, compared with what the ledger holds: pure functions, each returns a sentence for every fault.

All instants are of one monotonic clock. A write's interval begins before its first attempt and ends when its answer was
there, so that its effect lies within; two writes are ordered when one ended before the other started.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate


@dataclass(frozen=True)
class Write:
    """An acknowledged write: `entries` stand at `first_index` and after, adjacent. A key occurs again if it was replayed."""

    key: str
    person: str
    value: str
    started: float
    ended: float
    first_index: int
    entries: tuple[str, ...]
    applied: bool = True
    """False: the entry was recorded, but another one's time puts that one in force."""
    answer: bytes = b""


@dataclass(frozen=True)
class Read:
    """A determinate answer about a person. `value` is the one that was read, as writes name it."""

    person: str
    value: str
    started: float
    ended: float


def faults(
    ledger: Sequence[str | None], writes: Sequence[Write], reads: Iterable[Read] = (), *, before: int
) -> list[str]:
    """Every fault. `ledger` holds the entry id at each index, None where there is none; `before`: its size before the writes."""
    return [
        *gaps(ledger),
        *lost(ledger, writes),
        *changed(writes),
        *unclaimed(ledger, writes, before=before),
        *unordered(writes),
        *stale(writes, reads),
    ]


def gaps(ledger: Sequence[str | None]) -> list[str]:
    """Indexes without an entry, and entries that stand at two indexes."""
    at: dict[str, int] = {}
    found = []
    for index, entry in enumerate(ledger):
        if entry is None:
            found.append(f"no entry has the index {index}")
        elif at.setdefault(entry, index) != index:
            found.append(f"entry {entry} stands at {at[entry]} and at {index}")
    return found


def lost(ledger: Sequence[str | None], writes: Iterable[Write]) -> list[str]:
    """Acknowledged entries that do not stand at their index."""
    return [
        f"{write.key}: entry {entry} was acknowledged at {index} and is not there"
        for write in writes
        for index, entry in enumerate(write.entries, write.first_index)
        if index >= len(ledger) or ledger[index] != entry
    ]


def changed(writes: Iterable[Write]) -> list[str]:
    """Keys that were not answered the same each time."""
    first: dict[str, Write] = {}
    found = []
    for write in writes:
        known = first.setdefault(write.key, write)
        if (known.first_index, known.entries) != (write.first_index, write.entries):
            found.append(f"{write.key}: answered with index {known.first_index}, then with {write.first_index}")
        elif known.answer != write.answer:
            found.append(f"{write.key}: two answers differ in their bytes")
    return found


def unclaimed(ledger: Sequence[str | None], writes: Iterable[Write], *, before: int) -> list[str]:
    """Entries that no key or more than one has been answered with: where all keys were answered, a second effect of one."""
    owners: dict[int, set[str]] = defaultdict(set)
    for write in writes:
        for index in range(write.first_index, write.first_index + len(write.entries)):
            owners[index].add(write.key)
    found = [
        f"index {index} was given to {' and '.join(sorted(keys))}" for index, keys in owners.items() if len(keys) > 1
    ]
    return found + [
        f"entry {ledger[index]} at {index} answers no key"
        for index in range(before, len(ledger))
        if index not in owners
    ]


def unordered(writes: Iterable[Write]) -> list[str]:
    """Pairs that contradict real time: one was acknowledged before the other started, and has the higher index."""
    once = _once(writes)
    by_end = sorted(once, key=lambda write: write.ended)
    highest: Write | None = None
    found, position = [], 0
    for write in sorted(once, key=lambda write: write.started):
        while position < len(by_end) and by_end[position].ended < write.started:
            ended = by_end[position]
            highest = ended if highest is None or _last(ended) > _last(highest) else highest
            position += 1
        if highest is not None and _last(highest) >= write.first_index:
            found.append(
                f"{highest.key} ended before {write.key} started, yet has {_last(highest)}, and that one {write.first_index}"
            )
    return found


def ordered_pairs(writes: Iterable[Write]) -> int:
    """How many pairs of writes are ordered in real time: the power of `unordered` on this history."""
    once = _once(writes)
    ends = sorted(write.ended for write in once)
    pairs, position = 0, 0
    for started in sorted(write.started for write in once):
        while position < len(ends) and ends[position] < started:
            position += 1
        pairs += position
    return pairs


def stale(writes: Iterable[Write], reads: Iterable[Read]) -> list[str]:
    """Reads that do not fit a register: each person has one value at a time, which changes in the order of the ledger.

    A read must show a value that was in force at some instant within it, and none older than what was acknowledged or
    read before it started. Takes the oldest value that fits, which leaves the most room for later reads; so a fault is one
    in every order.
    """
    sequences: dict[str, list[Write]] = defaultdict(list)
    for write in sorted(_once(writes), key=lambda write: write.first_index):
        if write.applied:
            sequences[write.person].append(write)
    by_person: dict[str, list[Read]] = defaultdict(list)
    for read in sorted(reads, key=lambda read: read.started):
        by_person[read.person].append(read)
    return [fault for person, own in by_person.items() for fault in _misread(sequences[person], own)]


UNKNOWN = ""
"""The value of a person before the first write."""


def _misread(writes: Sequence[Write], reads: Sequence[Read]) -> Iterator[str]:
    """`writes` in the order of the ledger, `reads` in that of their starts; a place counts the writes that were seen."""
    values = [UNKNOWN, *(write.value for write in writes)]
    begun = [
        float("-inf"),
        *accumulate((write.started for write in writes), max),
    ]  # nothing is there before its forerunners
    ended = sorted((write.ended, place) for place, write in enumerate(writes, 1))
    seen: list[tuple[float, int]] = []
    certain = 0
    for read in reads:
        for past in (ended, seen):
            while past and past[0][0] < read.started:
                certain = max(certain, heappop(past)[1])
        there = bisect_left(begun, read.ended)
        place = next((place for place in range(certain, there) if values[place] == read.value), None)
        if place is None:
            yield f"{read.person}: {read.value or 'nothing'} was read, which was not in force then"
        else:
            heappush(seen, (read.ended, place))


def _once(writes: Iterable[Write]) -> list[Write]:
    """The first answer of each key that has an effect; a replay says nothing about when the entry was made."""
    first: dict[str, Write] = {}
    for write in writes:
        known = first.get(write.key)
        if write.entries and (known is None or write.ended < known.ended):
            first[write.key] = write
    return list(first.values())


def _last(write: Write) -> int:
    return write.first_index + len(write.entries) - 1
