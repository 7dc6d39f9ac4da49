"""What a C2SP witness asks before it lets a tree head take the place of an older one of the same log."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from volenti.core.ledger import merkle
from volenti.core.ledger.checkpoint import TreeHead

Objection: TypeAlias = Literal["rolled_back", "forked"]


def objection(old: TreeHead, new: TreeHead, proof: Sequence[bytes]) -> Objection | None:
    """Say why `new` must not take the place of `old`; None if it may.

    `proof` is the consistency proof between the two sizes: empty where they are equal or `old` is the empty tree,
    since there is nothing to prove. C2SP tlog-witness, add-checkpoint.
    """
    if new.origin != old.origin:
        return "forked"
    if new.size < old.size:
        return "rolled_back"
    if old.size == 0 or new.size == old.size:
        consistent = not proof and (old.size == 0 < new.size or new.root == old.root)
    else:
        consistent = merkle.verify_consistency(old.size, new.size, proof, old.root, new.root)
    return None if consistent else "forked"
