"""Refusals and exceptions as RFC 9457 problem documents: the only place that knows status codes.

No problem holds a value that a caller sent; a member's name is echoed only if it looks like a name.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from volenti.api.wire import Problem, ProblemError
from volenti.core.admission import Refusal
from volenti.errors import Conflict, Invalid, LedgerDamaged, NotFound, Unavailable, VerificationError

CONTENT_TYPE = "application/problem+json"
TYPES = "urn:volenti:problem:"
"""Names, not addresses: a problem's `type` is stable."""

RETRY_SECONDS = 1


class Problematic(Exception):
    """A request ends here with this problem."""

    def __init__(self, status: int, type: str, detail: str, *, pointer: str | None = None, **extra: Any) -> None:  # noqa: A002
        super().__init__(detail)
        self.status, self.type, self.detail, self.pointer, self.extra = status, type, detail, pointer, extra


_TITLES = {
    400: "Malformed request",
    401: "Not authenticated",
    403: "Not permitted to this credential",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Request too slow",
    409: "Conflict",
    410: "Gone",
    413: "Request too large",
    414: "Address too long",
    415: "Unsupported media type",
    422: "Invalid request",
    429: "Too many requests",
    431: "Head too large",
    500: "Internal error",
    503: "Temporarily unavailable",
}


def problem_of(error: BaseException) -> Problematic:
    """The problem that an exception means; anything unexpected is a 500 that says nothing."""
    match error:
        case Problematic():
            return error
        case Invalid():
            return Problematic(422, "invalid", str(error))
        case NotFound():
            return Problematic(404, "not_found", "there is no such thing in this workspace")
        case Conflict():
            return Problematic(409, "conflict", str(error))
        case Unavailable():
            return Problematic(503, "unavailable", str(error))
        case LedgerDamaged() | VerificationError():
            return Problematic(503, "ledger_damaged", "what is stored contradicts itself; run: volenti audit verify")
        case RecursionError():
            return Problematic(400, "too_deep", "the document is nested too deeply")
        case _:
            return Problematic(500, "internal", "an unexpected error; it was logged")


def refused(refusal: Refusal) -> Problematic:
    """The problem of a write that the rules refuse: 409 where it contradicts what is stored, else 422."""
    extra = {} if refusal.by is None else {"entry": refusal.by}
    return Problematic(
        409 if refusal.conflict else 422, refusal.code, refusal.detail, pointer=refusal.pointer or None, **extra
    )


def body_of(problem: Problematic) -> bytes:
    """The problem document's bytes."""
    return msgspec.json.encode(document_of(problem))


def document_of(problem: Problematic) -> dict[str, Any]:
    """The problem document: the members of `Problem`, and what else the problem says."""
    errors = () if problem.pointer is None else (ProblemError(detail=problem.detail, pointer="#" + problem.pointer),)
    document = Problem(
        type=TYPES + problem.type,
        title=_TITLES.get(problem.status, "Error"),
        status=problem.status,
        detail=problem.detail,
        errors=errors,
    )
    members = {name: value for name, value in msgspec.to_builtins(document).items() if name != "errors" or value}
    return members | problem.extra


def headers_of(problem: Problematic) -> dict[str, str]:
    """The headers that go with a problem."""
    headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if problem.status in (429, 503):
        headers["retry-after"] = str(RETRY_SECONDS)
    return headers


# A fault's place is told by steps of this form only; what a caller sent may look like a place, but stands before it.
_PATH = re.compile(r" - at `(?:key in )?\$((?:\.[a-z_]{1,64}|\[(?:\d+|\.\.\.)\])*)`$")
_STEP = re.compile(r"\.([a-z_]{1,64})|\[(\d+|\.\.\.)\]")
_NAME = re.compile(r"`([a-z_]{1,64})`")


def invalid_body(error: msgspec.ValidationError) -> Problematic:
    """The problem of a body that does not fit its type: a fixed sentence a kind of fault, and a JSON Pointer to the member."""
    text = str(error)
    pointer = (
        "".join(f"/{name or index}" for name, index in _STEP.findall(match[1])) if (match := _PATH.search(text)) else ""
    )
    message = _PATH.sub("", text)
    # The kind of fault is told by how the sentence begins: further on it may quote what the caller sent.
    if message.startswith("Object contains unknown field"):
        named = _NAME.fullmatch(message.removeprefix("Object contains unknown field "))
        known = f"{pointer}/{named[1]}" if named is not None else pointer
        return Problematic(422, "unknown_member", "there is no such member", pointer=known)
    if message.startswith("Object missing required field"):
        named = _NAME.search(message)
        member = named[1] if named is not None else ""
        return Problematic(422, "missing_member", f"the member {member} is required", pointer=pointer)
    if message.startswith(("Invalid enum value", "Invalid value")):
        return Problematic(
            422, "invalid_value", "the value is none of those that this member may have", pointer=pointer
        )
    for sign, detail in _FAULTS:
        if sign in message:
            return Problematic(422, "invalid_value", detail, pointer=pointer)
    return Problematic(422, "invalid_value", "the value is not of the type that this member has", pointer=pointer)


_FAULTS = (
    ("matching regex", "the text does not have the form that this member has"),
    ("of length", "the value is too long, too short or has too many elements"),
    ("RFC3339", "the value is not an RFC 3339 instant with a time zone"),
    ("timezone", "the value is not an RFC 3339 instant with a time zone"),
    ("Expected `int` >=", "the number is too small"),
    ("Expected `int` <=", "the number is too large"),
)


def not_implemented(pointer: str) -> Problematic:
    """The problem of a member that the contract has and this version does not obey yet: never a silent yes."""
    return Problematic(
        422, "not_implemented", "this version does not implement this member yet; leave it out", pointer=pointer
    )
