"""A tree head takes the place of an older one only if it extends it: a witness's rules, the same for every anchor."""

from __future__ import annotations

from volenti.core.ledger import merkle
from volenti.core.ledger.checkpoint import TreeHead
from volenti.core.ledger.merkle import EMPTY_ROOT, HASH_SIZE, TreeSize
from volenti.core.ledger.witness import objection

LARGEST = 20
LEAVES = [merkle.leaf_hash(bytes([n])) for n in range(LARGEST)]
ANOTHER = merkle.leaf_hash(b"another")
PAIRS = [(old, new) for new in range(LARGEST + 1) for old in range(new + 1)]
SHORTER = [(old, new) for old, new in PAIRS if old < new]


def head(size: int, *, leaves: list[bytes] = LEAVES, origin: str = "localhost/shop") -> TreeHead:
    return TreeHead(origin, TreeSize(size), merkle.root(frontier(size, leaves)))


def frontier(size: int, leaves: list[bytes] = LEAVES) -> list[bytes]:
    grown: list[bytes] = []
    for n, leaf in enumerate(leaves[:size]):
        grown = merkle.append(grown, TreeSize(n), leaf)
    return grown


def proof(old: int, new: int) -> list[bytes]:
    if not 0 < old < new:
        return []
    plan = merkle.consistency_plan(TreeSize(old), TreeSize(new))
    nodes = {(level, index): merkle.root(frontier(1 << level, LEAVES[index << level :])) for level, index in plan.nodes}
    return merkle.finish(plan, nodes)


def test_an_extension_and_the_same_head_may_follow() -> None:
    for old, new in PAIRS:
        assert objection(head(old), head(new), proof(old, new)) is None, (old, new)


def test_a_shorter_head_is_rolled_back_whatever_is_proved() -> None:
    for old, new in SHORTER:
        for claimed in ([], proof(old, new)):
            assert objection(head(new), head(old), claimed) == "rolled_back", (old, new)


def test_the_same_size_needs_the_same_root() -> None:
    for size in range(1, LARGEST + 1):
        other = head(size, leaves=[*LEAVES[: size - 1], ANOTHER])
        assert objection(head(size), other, []) == "forked", size


def test_a_head_that_does_not_extend_the_old_one_is_forked() -> None:
    for old, new in SHORTER:
        if old:
            assert objection(head(old, leaves=[ANOTHER, *LEAVES[1:]]), head(new), proof(old, new)) == "forked"
            assert objection(head(old), head(new, leaves=[ANOTHER, *LEAVES[1:]]), proof(old, new)) == "forked"


def test_nothing_follows_on_a_proof_that_is_short_long_or_altered() -> None:
    for old, new in PAIRS:
        right = proof(old, new)
        wrong = [[*right, ANOTHER], *([right[:-1], [], [ANOTHER, *right[1:]]] if right else [])]
        for claimed in wrong:
            assert objection(head(old), head(new), claimed) == "forked", (old, new, claimed)


def test_another_log_never_follows() -> None:
    for size in (0, 3):
        assert objection(head(3), head(3, origin="localhost/other"), []) == "forked"
        assert objection(head(0), head(size, origin="localhost/other"), []) == "forked"


def test_an_empty_tree_has_one_root() -> None:
    assert objection(head(0), TreeHead("localhost/shop", TreeSize(0), bytes(HASH_SIZE)), []) == "forked"
    assert head(0).root == EMPTY_ROOT
