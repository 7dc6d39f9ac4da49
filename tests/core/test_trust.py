"""A trust policy accepts a checkpoint that one of its logs signed and its quorum cosigned, and no other."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volenti.core.ledger.checkpoint import TreeHead, render
from volenti.core.ledger.merkle import TreeSize
from volenti.core.ledger.note import (
    COSIGNATURE_V1,
    ED25519,
    VerifierKey,
    assemble,
    cosigned_text,
    key_id,
    signature_line,
)
from volenti.core.ledger.trust import Group, parse, satisfied, verify
from volenti.errors import Invalid, VerificationError

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "c2sp.json").read_text(encoding="utf-8"))
LOG, WITNESS = FROZEN["log"]["vkey"], FROZEN["witness"]["vkey"]
COSIGNED = FROZEN["proof_of_leaf_5"]["text"].partition("\n\n")[2]
BY_LOG_ALONE = COSIGNED[: COSIGNED.index("\u2014 witness")]

HEAD = TreeHead("log.example", TreeSize(3), bytes(32))
SEEDS = {name: bytes([n]) * 32 for n, name in enumerate(["log", "x1", "x2", "x3", "y1", "y2", "other"], start=1)}
PRIVATE = {name: Ed25519PrivateKey.from_private_bytes(seed) for name, seed in SEEDS.items()}


def key(name: str, kind: int = COSIGNATURE_V1) -> VerifierKey:
    return VerifierKey(f"{name}.example", kind, PRIVATE[name].public_key().public_bytes_raw())


def cosigned_by(*names: str) -> str:
    text = render(HEAD)
    lines = [signature_line("log.example", key("log", ED25519).key_id, PRIVATE["log"].sign(text.encode()))]
    for name in names:
        value = (9).to_bytes(8, "big") + PRIVATE[name].sign(cosigned_text(text, 9))
        lines.append(signature_line(f"{name}.example", key(name).key_id, value))
    return assemble(text, lines)


def policy_file(*lines: str) -> str:
    log = f"log {key('log', ED25519).vkey}"
    return "\n".join(
        [log, *(f"witness {name} {key(name).vkey}" for name in ("x1", "x2", "x3", "y1", "y2")), *lines, ""]
    )


TWO_LEVELS = policy_file("group X 2 x1 x2 x3", "group Y any y1 y2", "group both all X Y", "quorum both")


def test_the_vectors_satisfy_a_policy_that_names_their_witness() -> None:
    policy = parse(f"log {LOG}\nwitness w {WITNESS}\nquorum w\n")

    assert satisfied(COSIGNED, policy)
    assert not satisfied(BY_LOG_ALONE, policy)
    assert verify(COSIGNED, policy).size == 8


def test_without_a_quorum_the_signature_of_the_log_is_enough() -> None:
    assert satisfied(BY_LOG_ALONE, parse(f"log {LOG}\nquorum none\n"))


def test_a_log_that_is_not_named_is_not_accepted() -> None:
    assert not satisfied(COSIGNED, parse(f"log {key('log', ED25519).vkey}\nquorum none\n"))
    assert not satisfied(COSIGNED, parse(f"witness w {WITNESS}\nquorum w\n"))
    assert not satisfied(COSIGNED, parse("quorum none\n"))


@pytest.mark.parametrize(
    ("witnesses", "expected"),
    [
        ((), False),
        (("x1", "x2"), False),
        (("x1", "y1"), False),
        (("x1", "x1", "y1"), False),
        (("x1", "x2", "other"), False),
        (("x1", "x3", "y2"), True),
        (("x1", "x2", "x3", "y1", "y2"), True),
    ],
)
def test_groups_count_their_members(witnesses: tuple[str, ...], expected: bool) -> None:
    assert expected == satisfied(cosigned_by(*witnesses), parse(TWO_LEVELS))


def test_thresholds_are_read_as_numbers() -> None:
    policy = parse(TWO_LEVELS)

    assert {
        "X": Group(2, ("x1", "x2", "x3")),
        "Y": Group(1, ("y1", "y2")),
        "both": Group(2, ("X", "Y")),
    } == policy.groups


def test_a_bad_cosignature_of_a_named_witness_refuses_what_the_others_suffice_for() -> None:
    note = cosigned_by("x1", "x2", "y1")
    forged = signature_line("y2.example", key("y2").key_id, bytes(72))

    assert satisfied(note, parse(TWO_LEVELS))
    assert not satisfied(note + forged, parse(TWO_LEVELS))


def test_a_missing_quorum_is_named() -> None:
    with pytest.raises(VerificationError, match="the quorum both"):
        verify(cosigned_by("x1"), parse(TWO_LEVELS))


def test_blanks_comments_and_addresses_are_allowed() -> None:
    policy = parse(
        f"# whom we trust\n\n \t# indented\n\tlog  {LOG}\thttps://log.example/ \nwitness w {WITNESS} https://w.example\nquorum w"
    )

    assert satisfied(COSIGNED, policy)


def test_octets_above_ascii_are_opaque_names() -> None:
    text = f"log {LOG}\nwitness K {WITNESS}\nquorum \u212a\n"

    with pytest.raises(Invalid, match="line 3"):
        parse(text)
    assert satisfied(COSIGNED, parse(f"# \xff\nlog {LOG}\nwitness \xfe {WITNESS}\nquorum \xfe\n".encode("latin-1")))


X1 = f"witness x1 {key('x1').vkey}"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (0, ""),
        (0, f"log {LOG}"),
        (2, "quorum none\nquorum none"),
        (1, "quorum w"),
        (1, "quorum"),
        (1, "quorum none none"),
        (1, "log"),
        (1, "log not-a-key"),
        (1, f"log {WITNESS}"),
        (1, f"log {LOG} one two"),
        (2, f"log {LOG}\nlog {LOG}"),
        (1, f"witness w {LOG}"),
        (1, f"witness none {WITNESS}"),
        (2, f"witness w {WITNESS}\nwitness w {key('x1').vkey}"),
        (2, f"witness a {WITNESS}\nwitness b {WITNESS}"),
        (2, f"log {VerifierKey('l', ED25519, key('x1').public_key).vkey}\n{X1}"),
        (2, f"{X1}\nlog {VerifierKey('l', ED25519, key('x1').public_key).vkey}"),
        (2, f"{X1}\ngroup x1 any x1"),
        (2, f"{X1}\ngroup g any"),
        (2, f"{X1}\ngroup g 0 x1"),
        (2, f"{X1}\ngroup g 01 x1"),
        (2, f"{X1}\ngroup g 2 x1"),
        (2, f"{X1}\ngroup g \u0661 x1"),
        (2, f"{X1}\ngroup g most x1"),
        (2, f"{X1}\ngroup g any none"),
        (2, f"{X1}\ngroup g any g"),
        (2, f"{X1}\ngroup g any x1 x1"),
        (3, f"{X1}\ngroup g any x1\ngroup h any x1"),
        (1, "group g any later\nquorum none"),
        (1, "Quorum none"),
        (1, "quorum\u00a0none"),
        (1, "quorum none\r"),
        (1, "# \x7f"),
    ],
)
def test_a_policy_that_is_wrong_names_the_line(line: int, lines: str) -> None:
    with pytest.raises(Invalid, match=f"line {line} " if line else "no quorum line"):
        parse(lines)


@pytest.mark.parametrize("encoding", FROZEN["weak_public_keys"][:2])
def test_a_weak_key_is_not_trusted(encoding: str) -> None:
    public = bytes.fromhex(encoding)
    material = b64encode(bytes([ED25519]) + public).decode()
    vkey = f"weak+{key_id('weak', ED25519, public).hex()}+{material}"

    with pytest.raises(Invalid, match="small order"):
        parse(f"log {vkey}\nquorum none\n")
