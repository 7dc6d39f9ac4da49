"""Whom a verifier trusts: a C2SP tlog-policy file, which names logs, witnesses and the quorum of witnesses."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from volenti.core.ledger import checkpoint
from volenti.core.ledger import note as notes
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.note import COSIGNATURE_V1, ED25519, Note, VerifierKey
from volenti.errors import Invalid, VerificationError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BLANKS = re.compile(r"[ \t]+")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,5}")
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Group:
    """Has seen a checkpoint if at least `threshold` of its members, witnesses or groups, have."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Any one of the logs, and the quorum: the name of a witness or group, or None where no witness is asked for."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str | None

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        return (*self.logs, *self.witnesses.values())


def parse(text: str | bytes) -> Policy:
    """Read a policy file. Raises Invalid with the number of the first line that is wrong."""
    reader = _Reader()
    # Octets above ASCII are opaque: a name that is no UTF-8 stays distinct, though no key can bear it.
    text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            reader.read(line)
        except (Invalid, VerificationError) as exc:
            raise Invalid(f"line {number} of the trust policy: {exc}") from exc
    return reader.policy()


def verify(note: str | bytes | Note, policy: Policy) -> TreeHead:
    """Return the tree head of a checkpoint that one of the logs has signed and the quorum has cosigned.

    Raises VerificationError, also for one bad signature of a log or witness that the policy names.
    """
    head, verified = checkpoint.verify_all(note, policy.keys)
    signers = {signature.key for signature in verified}
    witnesses = {name for name, key in policy.witnesses.items() if key in signers}
    if policy.quorum is not None and not _has_seen(policy.quorum, policy, witnesses):
        raise VerificationError(f"the quorum {policy.quorum} has not cosigned the checkpoint")
    return head


def satisfied(note: str | bytes | Note, policy: Policy) -> bool:
    """Say whether the policy accepts the checkpoint. A policy without logs accepts none."""
    try:
        verify(note, policy)
    except VerificationError:
        return False
    return True


def _has_seen(name: str, policy: Policy, witnesses: Collection[str]) -> bool:
    group = policy.groups.get(name)
    if group is None:
        return name in witnesses
    # Groups name only what stands above them and each name is a member once, so this ends.
    return sum(_has_seen(member, policy, witnesses) for member in group.members) >= group.threshold


class _Reader:
    """Reads a policy line by line: what may be named depends on the lines above."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.members: set[str] = set()
        self.quorums: list[str | None] = []

    def policy(self) -> Policy:
        if not self.quorums:
            raise Invalid("the trust policy has no quorum line")
        return Policy(tuple(self.logs), self.witnesses, self.groups, self.quorums[0])

    def read(self, line: str) -> None:
        if _CONTROL.search(line):
            raise Invalid("control characters are not allowed")
        match _BLANKS.split(line.strip(" \t")):
            case [""]:
                return
            case [word, *_] if word.startswith("#"):
                return
            case ["log", vkey] | ["log", vkey, _]:
                self.logs.append(self._new_key(vkey, ED25519))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._check_new(name)
                self.witnesses[name] = self._new_key(vkey, COSIGNATURE_V1)
            case ["group", name, threshold, *members] if members:
                self._check_new(name)
                self.groups[name] = self._group(threshold, members)
            case ["quorum", name]:
                self._read_quorum(name)
            case words:
                raise Invalid(f"not a line of a trust policy: {words[0]}")

    def _group(self, threshold: str, members: list[str]) -> Group:
        for member in members:
            self._check_defined(member)
            if member in self.members:
                raise Invalid(f"{member} is already a member of a group")
            self.members.add(member)
        count = {"any": 1, "all": len(members)}.get(threshold)
        if count is None and _THRESHOLD.fullmatch(threshold):
            count = int(threshold)
        if count is None or count > len(members):
            raise Invalid(f"the threshold of a group is any, all, or a number up to {len(members)}")
        return Group(count, tuple(members))

    def _read_quorum(self, name: str) -> None:
        if self.quorums:
            raise Invalid("there is one quorum line")
        if name == _NONE:
            self.quorums.append(None)
            return
        self._check_defined(name)
        self.quorums.append(name)

    def _new_key(self, vkey: str, kind: int) -> VerifierKey:
        key = notes.parse_vkey(vkey)
        if key.kind != kind:
            raise Invalid(f"the signature type {key.kind:#04x} is not meant for this")
        # Across both kinds too: a log that witnessed itself would fill its own quorum.
        if any(key.public_key == other.public_key for other in (*self.logs, *self.witnesses.values())):
            raise Invalid("the same public key stands there twice")
        return key

    def _check_new(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise Invalid(f"the name {name} is taken")

    def _check_defined(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise Invalid(f"{name} is not defined above")
