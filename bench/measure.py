"""How the benchmarks measure: sides that take turns, ratios of medians with their spread, CPU time beside the clock's.

The machine is shared, so a rate alone says little. Two sides that take turns in one run see the same neighbours; their
ratio is what a gate looks at, and the spread of the pairs' ratios says how far to believe it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Meter: TypeAlias = Callable[[], float]
"""CPU-seconds that a process has used so far."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Side(Protocol):
    """One of the things that are compared.

    The processes that `meters` has are its own; those in `clients` only ask, and do not count in the rate per CPU-second.
    """

    @property
    def name(self) -> str: ...

    @property
    def meters(self) -> Mapping[str, Meter]: ...

    @property
    def clients(self) -> frozenset[str]: ...

    async def prepare(self, seconds: float) -> None:
        """Make ready what a run of this length needs; not measured."""
        ...

    async def run(self, seconds: float) -> tuple[int, float]:
        """Work for about so long; give how many appends were acknowledged and in how many seconds. MUST check each answer."""
        ...


@dataclass(frozen=True)
class Sample:
    """One turn of a side."""

    count: int
    seconds: float
    cpu: Mapping[str, float]
    counted: float
    """CPU-seconds without the clients'."""

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.count / self.counted


@dataclass
class Turns:
    """What sides that took turns did."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def ratio(self, one: str, other: str, measure: Callable[[Sample], float]) -> tuple[float, list[float]]:
        """The ratio of the medians, and the ratios of the pairs, least first."""
        ones, others = ([measure(sample) for sample in self.samples[name]] for name in (one, other))
        pairs = sorted(a / b for a, b in zip(ones, others, strict=True))
        return statistics.median(ones) / statistics.median(others), pairs

    def shown(self, name: str) -> dict[str, Any]:
        """A side for the JSON line: medians, and every turn's rate."""
        samples = self.samples[name]
        return {
            "rate": round(statistics.median(sample.rate for sample in samples), 1),
            "rates": [round(sample.rate, 1) for sample in samples],
            "per_cpu_second": round(statistics.median(sample.per_cpu_second for sample in samples), 1),
            "cpu_seconds": {
                meter: round(statistics.median(sample.cpu[meter] for sample in samples), 3) for meter in samples[0].cpu
            },
            "seconds": round(statistics.median(sample.seconds for sample in samples), 3),
        }

    def bar(
        self, number: int, figure: str, one: str, other: str, *, gate: float | None, goal: float, by_cpu: bool = False
    ) -> dict[str, Any]:
        """One bar for the JSON line; `gate` None: printed only.

        The gate is on the clock's rates, `by_cpu` on those per CPU-second: right where both sides do nothing but compute.
        """
        ratio, pairs = self.ratio(one, other, lambda sample: sample.rate)
        per_cpu, pairs_by_cpu = self.ratio(one, other, lambda sample: sample.per_cpu_second)
        gated = per_cpu if by_cpu else ratio
        return {
            "bar": number,
            "figure": figure,
            "ratio": round(ratio, 3),
            "spread": [round(pairs[0], 3), round(pairs[-1], 3)],
            "ratio_per_cpu_second": round(per_cpu, 3),
            "spread_per_cpu_second": [round(pairs_by_cpu[0], 3), round(pairs_by_cpu[-1], 3)],
            "gate": gate,
            "goal": goal,
            "gated": "ratio_per_cpu_second" if by_cpu else "ratio",
            "holds": None if gate is None else gated >= gate,
            "sides": {one: self.shown(one), other: self.shown(other)},
        }


async def take_turns(sides: Sequence[Side], *, pairs: int, seconds: float, warm_up: float = 2.0) -> Turns:
    """Warm every side up, then let them run in turn, `pairs` times each."""
    turns = Turns({side.name: [] for side in sides})
    for round_number in range(pairs + 1):
        for side in sides:
            sample = await _turn(side, seconds if round_number else warm_up)
            if round_number:
                turns.samples[side.name].append(sample)
            tell(
                f"{'warm' if not round_number else f'{round_number}/{pairs}':>5}  {side.name:<12} {sample.rate:9.0f}/s"
            )
    return turns


async def _turn(side: Side, seconds: float) -> Sample:
    await side.prepare(seconds)
    gc.collect()
    gc.freeze()  # what was prepared is not looked through again while it is used up
    before = {meter: read() for meter, read in side.meters.items()}
    count, elapsed = await side.run(seconds)
    cpu = {meter: read() - before[meter] for meter, read in side.meters.items()}
    gc.unfreeze()
    return Sample(count, elapsed, cpu, sum(used for meter, used in cpu.items() if meter not in side.clients))


async def closed_loop(callers: int, seconds: float, step: Callable[[], Awaitable[int]]) -> tuple[int, float]:
    """Let so many callers repeat a step until the time is over or a step gives 0; the sum and the seconds until the last one was done."""
    begun = time.perf_counter()

    async def caller() -> int:
        done = 0
        while time.perf_counter() - begun < seconds and (more := await step()):
            done += more
        return done

    count = sum(await asyncio.gather(*(caller() for _ in range(callers))))
    return count, time.perf_counter() - begun


def tell(line: str) -> None:
    """Say how it goes, on standard error."""
    print(line, file=sys.stderr, flush=True)


# --- CPU-seconds


def own() -> float:
    return time.process_time()


def ended_children() -> float:
    """Of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_tree(pid: int) -> float:
    """Of a process, its living children and those that it has seen end."""
    user, system, ended_user, ended_system = _times(pid)
    return user + system + ended_user + ended_system + sum(sum(_times(child)) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[1]) == pid:
                found.append(int(folder.name))
    return found


def _times(pid: int) -> tuple[float, float, float, float]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0, 0.0, 0.0
    user, system, ended_user, ended_system = (int(value) / _TICKS for value in fields[11:15])
    return user, system, ended_user, ended_system


# --- where it was measured


def surroundings(postgresql: str | None = None) -> dict[str, Any]:
    """Versions, cores, commit and date, for the JSON line."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "--short=12", "HEAD") or None,
        "changed": bool(_git("status", "--porcelain", "--", "service", "migrations", "bench")),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "postgresql": postgresql,
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("volenti", "asyncpg", "cryptography", "httptools", "msgspec", "uvicorn", "uvloop")
            },
        },
    }


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    return answer.stdout.strip()
