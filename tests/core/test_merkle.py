"""The tree is RFC 6962's: the recursive definitions stand here, and everything in the core has to agree with them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from volenti.core.ledger.merkle import (
    EMPTY_ROOT,
    Coordinate,
    LeafIndex,
    Plan,
    TreeSize,
    append,
    consistency_plan,
    finish,
    inclusion_plan,
    leaf_hash,
    node_hash,
    root,
    split,
    verify_consistency,
    verify_inclusion,
)
from volenti.errors import Invalid, LedgerDamaged

FROZEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "rfc6962.json").read_text())
CLASSIC = [bytes.fromhex(leaf) for leaf in FROZEN["leaves"]]
LARGEST = 64
LEAVES = [bytes([n]) for n in range(LARGEST)]


@cache
def mth(start: int, end: int) -> bytes:
    if start == end:
        return EMPTY_ROOT
    if end - start == 1:
        return leaf_hash(LEAVES[start])
    middle = start + largest_power_of_two_below(end - start)
    return node_hash(mth(start, middle), mth(middle, end))


def largest_power_of_two_below(n: int) -> int:
    power = 1
    while power * 2 < n:
        power *= 2
    return power


def path(m: int, start: int, end: int) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + largest_power_of_two_below(end - start)
    if m < middle:
        return [*path(m, start, middle), mth(middle, end)]
    return [*path(m, middle, end), mth(start, middle)]


def subproof(m: int, start: int, end: int, whole: bool) -> list[bytes]:
    if m == end:
        return [] if whole else [mth(start, end)]
    middle = start + largest_power_of_two_below(end - start)
    if m <= middle:
        return [*subproof(m, start, middle, whole), mth(middle, end)]
    return [*subproof(m, middle, end, False), mth(start, middle)]


def perfect_node(coordinate: Coordinate) -> bytes:
    level, index = coordinate
    return mth(index << level, (index + 1) << level)


def finished(plan: Plan) -> list[bytes]:
    return finish(plan, {coordinate: perfect_node(coordinate) for coordinate in plan.nodes})


def frontier_of(leaves: list[bytes]) -> list[bytes]:
    frontier: list[bytes] = []
    for size, leaf in enumerate(leaves):
        frontier = append(frontier, TreeSize(size), leaf_hash(leaf))
    return frontier


def zeroed(proof: list[bytes], position: int) -> list[bytes]:
    return [*proof[:position], bytes(32), *proof[position + 1 :]]


MUTATIONS: list[Callable[[list[bytes]], list[bytes]]] = [
    lambda proof: [*proof, bytes(32)],
    lambda proof: [bytes(32), *proof],
    lambda proof: proof[:-1],
    lambda proof: proof[1:],
    lambda proof: [*proof[:-1], *(hash_[:31] for hash_ in proof[-1:])],
]


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    changed = [mutate(proof) for mutate in MUTATIONS] + [zeroed(proof, position) for position in range(len(proof))]
    return [mutant for mutant in changed if mutant != proof]


@pytest.mark.parametrize(("size", "expected"), list(enumerate(FROZEN["roots"])))
def test_the_classic_leaves_have_the_published_roots(size: int, expected: str) -> None:
    assert expected == root(frontier_of(CLASSIC[:size])).hex()


def test_the_hashes_are_those_of_the_published_hasher() -> None:
    leaf, node = FROZEN["hasher"]

    assert leaf["hash"] == leaf_hash(leaf["parts"][0].encode()).hex()
    assert node["hash"] == node_hash(*(part.encode() for part in node["parts"])).hex()


def classic_node(name: str) -> bytes:
    return bytes.fromhex(FROZEN["nodes"][name])


def test_the_nodes_of_the_classic_tree_are_the_published_ones() -> None:
    for index, leaf in enumerate(CLASSIC):
        assert classic_node(f"0/{index}") == leaf_hash(leaf)
    for level, index in ((1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)):
        below = (classic_node(f"{level - 1}/{2 * index}"), classic_node(f"{level - 1}/{2 * index + 1}"))
        assert classic_node(f"{level}/{index}") == node_hash(*below)
    assert classic_node("4:7") == node_hash(classic_node("1/2"), classic_node("0/6"))


def classic_proof(plan: Plan) -> list[str]:
    nodes = {(level, index): classic_node(f"{level}/{index}") for level, index in plan.nodes}
    return [hash_.hex() for hash_ in finish(plan, nodes)]


@pytest.mark.parametrize("vector", FROZEN["inclusion"])
def test_the_published_inclusion_proofs_are_made_and_accepted(vector: dict[str, Any]) -> None:
    index, size = LeafIndex(vector["index"]), TreeSize(vector["size"])
    proof = [bytes.fromhex(hash_) for hash_ in vector["proof"]]

    assert vector["proof"] == classic_proof(inclusion_plan(index, size))
    assert verify_inclusion(index, size, leaf_hash(CLASSIC[index]), proof, bytes.fromhex(FROZEN["roots"][size]))


@pytest.mark.parametrize("vector", FROZEN["consistency"])
def test_the_published_consistency_proofs_are_made_and_accepted(vector: dict[str, Any]) -> None:
    old, new = TreeSize(vector["old"]), TreeSize(vector["new"])
    proof = [bytes.fromhex(hash_) for hash_ in vector["proof"]]
    old_root, new_root = (bytes.fromhex(FROZEN["roots"][size]) for size in (old, new))

    assert vector["proof"] == classic_proof(consistency_plan(old, new))
    assert verify_consistency(old, new, proof, old_root, new_root)


def test_the_frontier_folds_to_the_recursive_root_at_every_size() -> None:
    for size in range(LARGEST + 1):
        frontier = frontier_of(LEAVES[:size])

        assert mth(0, size) == root(frontier)
        assert size.bit_count() == len(frontier)


def test_appending_leaves_the_given_frontier_alone() -> None:
    frontier = frontier_of(LEAVES[:3])
    before = list(frontier)

    append(frontier, TreeSize(3), leaf_hash(LEAVES[3]))

    assert before == frontier


def test_split_is_the_largest_power_of_two_below_the_size() -> None:
    assert [largest_power_of_two_below(n) for n in range(2, 300)] == [split(TreeSize(n)) for n in range(2, 300)]


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
def test_every_inclusion_proof_is_the_recursive_one_and_no_mutant_passes(size: int) -> None:
    for index in range(size):
        at, of = LeafIndex(index), TreeSize(size)
        proof = finished(inclusion_plan(at, of))

        assert path(index, 0, size) == proof
        assert verify_inclusion(at, of, leaf_hash(LEAVES[index]), proof, mth(0, size))
        for mutant in mutations(proof):
            assert not verify_inclusion(at, of, leaf_hash(LEAVES[index]), mutant, mth(0, size))
        assert not verify_inclusion(at, of, leaf_hash(b"another leaf"), proof, mth(0, size))
        assert not verify_inclusion(at, of, leaf_hash(LEAVES[index]), proof, bytes(32))


@pytest.mark.parametrize("new", range(1, LARGEST + 1))
def test_every_consistency_proof_is_the_recursive_one_and_no_mutant_passes(new: int) -> None:
    for old in range(1, new + 1):
        sizes = TreeSize(old), TreeSize(new)
        proof = finished(consistency_plan(*sizes))

        assert subproof(old, 0, new, True) == proof
        assert verify_consistency(*sizes, proof, mth(0, old), mth(0, new))
        for mutant in mutations(proof):
            assert not verify_consistency(*sizes, mutant, mth(0, old), mth(0, new))
        assert not verify_consistency(*sizes, proof, bytes(32), mth(0, new))
        assert not verify_consistency(*sizes, proof, mth(0, old), bytes(32))


def test_a_proof_is_no_proof_for_another_leaf_of_the_same_tree() -> None:
    proof = finished(inclusion_plan(LeafIndex(5), TreeSize(8)))

    accepted = [i for i in range(8) if verify_inclusion(LeafIndex(i), TreeSize(8), mth(5, 6), proof, mth(0, 8))]

    assert accepted == [5]


def test_a_proof_is_no_proof_for_a_tree_that_is_deeper_or_shallower() -> None:
    proof = finished(inclusion_plan(LeafIndex(1), TreeSize(4)))

    accepted = [n for n in range(1, 65) if verify_inclusion(LeafIndex(1), TreeSize(n), mth(1, 2), proof, mth(0, 4))]

    assert accepted == [3, 4]  # both have this depth at leaf 1: the size must come from the signed head, as the root


def test_an_empty_leaf_hash_is_not_included_under_an_empty_root() -> None:
    assert not verify_inclusion(LeafIndex(0), TreeSize(1), b"", [], b"")
    assert not verify_consistency(TreeSize(1), TreeSize(1), [], b"", b"")


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 8), (9, 8), (-1, 8)])
def test_sizes_without_a_consistency_proof_are_refused(old: int, new: int) -> None:
    with pytest.raises(Invalid):
        consistency_plan(TreeSize(old), TreeSize(new))
    assert not verify_consistency(TreeSize(old), TreeSize(new), [], EMPTY_ROOT, EMPTY_ROOT)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (8, 8), (9, 8), (-1, 8)])
def test_leaves_outside_the_tree_have_no_inclusion_proof(index: int, size: int) -> None:
    with pytest.raises(Invalid):
        inclusion_plan(LeafIndex(index), TreeSize(size))
    assert not verify_inclusion(LeafIndex(index), TreeSize(size), EMPTY_ROOT, [], EMPTY_ROOT)


@pytest.mark.parametrize("wrong", [None, b"", bytes(31)], ids=["missing", "empty", "short"])
def test_a_missing_node_raises_and_never_shortens_a_proof(wrong: bytes | None) -> None:
    plan = consistency_plan(TreeSize(21), TreeSize(59))
    assert len(plan.nodes) > len(plan.ranges)  # some ranges consist of several nodes
    for left_out in plan.nodes:
        nodes = {node: perfect_node(node) for node in plan.nodes if node != left_out}
        if wrong is not None:
            nodes[left_out] = wrong

        with pytest.raises(LedgerDamaged):
            finish(plan, nodes)


def test_a_plan_names_no_node_twice_and_stays_small_in_a_tree_of_a_billion() -> None:
    size = TreeSize(10**9)
    for index in (0, 1, 255, 256, 123_456_789, 2**29, 10**9 - 1):
        nodes = inclusion_plan(LeafIndex(index), size).nodes

        assert len(set(nodes)) == len(nodes) <= 41
