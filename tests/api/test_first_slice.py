"""Record a choice, decide on it, prove it: the whole way once."""

from __future__ import annotations

from conftest import Api
from volenti.core.ledger import note, proof


async def test_a_grant_permits_and_a_withdrawal_denies_at_once(api: Api) -> None:
    granted = await api.choose("cus_1", "grant", channels=["email"])
    assert granted.status_code == 201

    permitted = await api.check("cus_1")
    assert (permitted["decision"], permitted["reason"]) == ("permit", "consent.granted")
    assert permitted["evidence"][0]["entry"] == granted.json()["entries"][-1]["entry"]

    assert (await api.choose("cus_1", "withdraw")).status_code == 201
    denied = await api.check("cus_1")
    assert (denied["decision"], denied["reason"]) == ("deny", "consent.withdrawn")


async def test_the_entry_that_a_permit_names_is_proved_against_a_signed_checkpoint(api: Api) -> None:
    await api.choose("cus_1", "grant")
    entry = (await api.check("cus_1"))["evidence"][0]["entry"]
    leaf_hash = bytes.fromhex((await api.get(f"/v1/ledger/entries/{entry}")).json()["leaf_hash"])
    key = note.parse_vkey((await api.get("/v1/ledger/keys")).json()["data"][0]["vkey"])

    text = (await api.get(f"/v1/ledger/entries/{entry}/proof", accept="text/plain")).text
    assert proof.verify(text, leaf_hash, [key]).size > proof.parse(text).index
