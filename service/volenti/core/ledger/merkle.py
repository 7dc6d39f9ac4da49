"""The Merkle tree of RFC 6962: hashes, growth, proof plans and their finish, and the checks of proofs. Bytes only.

A proof is made in three steps, so that nothing here reads a store: *plan* says which nodes it needs, the store
fetches them, *finish* folds them. A node is named by its coordinate: (level, index), level 0 = leaf hashes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NewType, TypeAlias

from volenti.errors import Invalid, LedgerDamaged

LeafIndex = NewType("LeafIndex", int)
TreeSize = NewType("TreeSize", int)
Coordinate: TypeAlias = tuple[int, int]

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def append(frontier: Sequence[bytes], size: TreeSize, leaf: bytes) -> list[bytes]:
    """Return the frontier of a tree of `size` leaves after one more leaf.

    `leaf` is the leaf's hash, 32 bytes. The frontier holds the roots of the perfect subtrees that the tree
    splits into, largest first: one hash per set bit of `size`. RFC 6962, section 2.1.
    """
    grown = list(frontier)
    remaining = int(size)
    while remaining & 1:
        leaf = node_hash(grown.pop(), leaf)
        remaining >>= 1
    grown.append(leaf)
    return grown


def root(frontier: Sequence[bytes]) -> bytes:
    """Return the root of the tree with this frontier. The empty tree's is EMPTY_ROOT."""
    return _fold(frontier) if frontier else EMPTY_ROOT


def split(size: TreeSize) -> int:
    """Return how many leaves go into the left subtree: the largest power of two smaller than `size`, which is > 1."""
    return 1 << ((size - 1).bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ranges of leaves whose hashes make a proof, each as the perfect nodes that it consists of, left to right."""

    ranges: tuple[tuple[Coordinate, ...], ...]

    @property
    def nodes(self) -> tuple[Coordinate, ...]:
        """Every node that has to be fetched. No two ranges of one proof overlap, so none occurs twice."""
        return tuple(node for nodes in self.ranges for node in nodes)


def inclusion_plan(index: LeafIndex, size: TreeSize) -> Plan:
    """Plan the proof that leaf `index` is in the tree of `size` leaves: PATH of RFC 6962, section 2.1.1."""
    if not 0 <= index < size:
        raise Invalid(f"leaf {index} is not in a tree of {size} leaves")
    start, end, ranges = 0, int(size), []
    while end - start > 1:
        middle = start + split(TreeSize(end - start))
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return _plan(reversed(ranges))


def consistency_plan(old: TreeSize, new: TreeSize) -> Plan:
    """Plan the proof that the tree of `new` leaves extends the one of `old`: PROOF of RFC 6962, section 2.1.2.

    Nothing is proved about size 0: it is refused. A protocol that wants an empty proof there (a C2SP witness)
    handles 0 before it asks.
    """
    if not 0 < old <= new:
        raise Invalid(f"no consistency proof from size {old} to size {new}")
    if old == new:
        return Plan(())
    start, end, ranges, whole = 0, int(new), [], True
    while old != end:
        middle = start + split(TreeSize(end - start))
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:  # else the node is the old root, which the verifier holds already
        ranges.append((start, end))
    return _plan(reversed(ranges))


def finish(plan: Plan, nodes: Mapping[Coordinate, bytes]) -> list[bytes]:
    """Return the proof, bottom up.

    Raises LedgerDamaged if a node is missing or no hash: a stored tree has no holes, and a proof that leaves
    one out would be wrong without looking wrong.
    """
    return [_fold([_node(nodes, coordinate) for coordinate in coordinates]) for coordinates in plan.ranges]


def verify_inclusion(index: LeafIndex, size: TreeSize, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether the proof binds the leaf hash `leaf` at `index` to `root`. RFC 9162, section 2.1.3.2.

    Every hash must have 32 bytes: otherwise an empty leaf hash would equal an empty root.
    """
    if not 0 <= index < size or any(len(h) != HASH_SIZE for h in (leaf, root, *proof)):
        return False
    node, last, computed = int(index), size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_consistency(old: TreeSize, new: TreeSize, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Say whether the proof shows that the tree of `new` leaves extends that of `old`. RFC 9162, section 2.1.4.2.

    Like the RFC it has no answer for size 0, so that is False.
    """
    if not 0 < old <= new or any(len(h) != HASH_SIZE for h in (old_root, new_root, *proof)):
        return False
    if old == new:
        return not proof and old_root == new_root
    if not proof:
        return False
    path = list(proof) if old & (old - 1) else [old_root, *proof]  # a power of two: the old root is a node itself
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    computed_old = computed_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed_old = node_hash(sibling, computed_old)
            computed_new = node_hash(sibling, computed_new)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            computed_new = node_hash(computed_new, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and computed_old == old_root and computed_new == new_root


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Fold neighbouring perfect subtrees, largest first, into the hash of their whole range."""
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def _plan(ranges: Iterable[tuple[int, int]]) -> Plan:
    return Plan(tuple(tuple(_perfect_nodes(start, end)) for start, end in ranges))


def _perfect_nodes(start: int, end: int) -> Iterable[Coordinate]:
    """Name the perfect subtrees that the leaves [start, end) consist of, left to right."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def _node(nodes: Mapping[Coordinate, bytes], coordinate: Coordinate) -> bytes:
    found = nodes.get(coordinate)
    if found is None or len(found) != HASH_SIZE:
        level, index = coordinate
        raise LedgerDamaged(f"node {index} at level {level} of the tree is missing")
    return found
