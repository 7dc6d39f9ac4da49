"""Keyed names are frozen, differ by each of their inputs, and never collide by where one field ends."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from volenti.keys.blind import (
    blind_index,
    credential_mac,
    fingerprint_mac,
    idempotency_mac,
    import_entry_seed,
    labelled,
    log_name,
)

PEPPER, OTHER = bytes(range(32)), bytes(32)
ONE, TWO = b"\x01" * 16, b"\x02" * 16


def test_the_values_are_frozen_because_the_database_holds_them() -> None:
    assert {
        "blind_index": blind_index(PEPPER, ONE, "email", "ana@example.org").hex(),
        "credential": credential_mac(PEPPER, "vol_sk_").hex(),
        "idempotency": idempotency_mac(PEPPER, ONE, TWO, "order-1").hex(),
        "fingerprint": fingerprint_mac(PEPPER, ONE, "POST /v1/consents", b"{}").hex(),
        "import": import_entry_seed(PEPPER, ONE, "crm", "7", "grant").hex(),
        "log_name": log_name(PEPPER, ONE, TWO),
    } == {
        "blind_index": "af92ea5dd828f4e4e7d7ff5331258d03e45f967b3b50dd052b0352be8d751a3b",
        "credential": "deaa1c88af6d6ff94dfcef99c1ae13e0c4a95fe62449797431b0dbce8a51e138",
        "idempotency": "0e661ac99fb3e0c819b5a486e892a32bdd21428c825be50507c810c787efbad8",
        "fingerprint": "232e50e56b1d49a64b533a2de975d1f9e988cdcd77a493d65ceb637164c59a2a",
        "import": "655e0eb52d6541a4741dfacfe189475f52f602314397e225f61f9f25fcc65067",
        "log_name": "jmbegrpg",
    }


def test_each_input_changes_the_value() -> None:
    values = [
        blind_index(PEPPER, ONE, "email", "a"),
        blind_index(OTHER, ONE, "email", "a"),
        blind_index(PEPPER, TWO, "email", "a"),
        blind_index(PEPPER, ONE, "phone", "a"),
        blind_index(PEPPER, ONE, "id", "a"),
        blind_index(PEPPER, ONE, "external", "a"),
        blind_index(PEPPER, ONE, "email", "A"),
        credential_mac(PEPPER, "a"),
        credential_mac(OTHER, "a"),
        credential_mac(PEPPER, "b"),
        idempotency_mac(PEPPER, ONE, TWO, "a"),
        idempotency_mac(OTHER, ONE, TWO, "a"),
        idempotency_mac(PEPPER, TWO, TWO, "a"),
        idempotency_mac(PEPPER, ONE, ONE, "a"),
        idempotency_mac(PEPPER, ONE, TWO, "b"),
        fingerprint_mac(PEPPER, ONE, "a", b"b"),
        fingerprint_mac(OTHER, ONE, "a", b"b"),
        fingerprint_mac(PEPPER, TWO, "a", b"b"),
        fingerprint_mac(PEPPER, ONE, "b", b"b"),
        fingerprint_mac(PEPPER, ONE, "a", b"a"),
        fingerprint_mac(PEPPER, ONE, "ab", b""),
        import_entry_seed(PEPPER, ONE, "a", "b", "c"),
        import_entry_seed(PEPPER, ONE, "ab", "", "c"),
        import_entry_seed(PEPPER, ONE, "a", "bc", ""),
        import_entry_seed(PEPPER, TWO, "a", "b", "c"),
        import_entry_seed(OTHER, ONE, "a", "b", "c"),
    ]

    assert {len(value) for value in values} == {32}
    assert len(set(values)) == len(values)


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_two_lists_of_fields_never_give_the_same_bytes(one: list[bytes], two: list[bytes]) -> None:
    assert (labelled("label", *one) == labelled("label", *two)) == (one == two)


def test_no_label_begins_as_another_ends() -> None:
    assert labelled("a", b"b") != labelled("ab")
    assert all(one != two for one, two in pairwise(labelled(label) for label in ("a", "ab", "abc")))


def test_a_log_name_is_short_and_tells_holders_and_workspaces_apart() -> None:
    names = {log_name(PEPPER, workspace, bytes([holder]) * 16) for workspace in (ONE, TWO) for holder in range(200)}

    assert len(names) == 400
    assert all(len(name) == 8 and name.isalnum() and name == name.lower() for name in names)


def test_half_a_surrogate_pair_in_a_header_raises_nothing() -> None:
    assert len(idempotency_mac(PEPPER, ONE, TWO, "\ud800")) == 32
