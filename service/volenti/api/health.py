"""/healthz, /readyz, and the clock of `--test-clock`."""

from __future__ import annotations

from volenti.api import wire
from volenti.api.endpoint import Call, Reply
from volenti.api.problems import Problematic
from volenti.api.values import instant
from volenti.errors import VolentiError
from volenti.flows import clock as time
from volenti.flows.clock import StandingClock, rfc3339
from volenti.store import workspaces
from volenti.store.appender import CLOCKS_APART_MS
from volenti.store.database import translated


async def healthy(_: Call) -> Reply:
    """The process answers."""
    return Reply(wire.Health(status="ok"))


async def ready(call: Call) -> Reply:
    """The process should get requests: it is not stopping, its database answers, and their clocks agree well enough to write."""
    reason = call.context.ready()
    if reason is None:
        try:
            await call.services.database.check()
            reason = await _skewed(call)
        except VolentiError as error:
            reason = str(error)
    if reason is None:
        return Reply(wire.Health(status="ok"))
    return Reply(wire.Health(status="unavailable", detail=reason), status=503, headers={"retry-after": "1"})


async def _skewed(call: Call) -> str | None:
    """Why no write would be taken: a load balancer should not send them to a process whose clock is wrong."""
    if isinstance(call.services.clock, StandingClock):
        return None
    _, theirs = await call.services.database.about()
    apart = abs(time.milliseconds(theirs) - call.services.clock())
    return "the clock is more than 30 s from the database's" if apart > CLOCKS_APART_MS else None


async def move_clock(call: Call) -> Reply:
    """Move the standing clock forward: the service's and the database's together."""
    clock = call.services.clock
    if not isinstance(clock, StandingClock):
        raise Problematic(404, "not_found", "this service runs on the wall clock")
    asked: wire.TestClock = call.body
    now = instant(asked.now, "/now")
    async with call.services.database.connection("volenti_admin") as connection:
        with translated("moving the test clock"):
            moved = await workspaces.set_test_clock(connection, time.instant(now))
    if not moved:
        raise Problematic(409, "clock_behind", "the clock stands later already; it only moves forward", pointer="/now")
    clock.move(now)
    return Reply(wire.ClockAnswer(now=rfc3339(clock())))
