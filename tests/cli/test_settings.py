"""What settings come to where nobody gave them."""

from __future__ import annotations

import pytest

from volenti.settings import load


@pytest.mark.parametrize(
    ("given", "links"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"port": 9000}, "http://127.0.0.1:9000"),
        ({"host": "::", "public_port": 9001}, "http://[::1]:9001"),
        ({"host": "0.0.0.0", "port": 9000}, "http://127.0.0.1:9000"),
        ({"public_base_url": "https://acme.example/consent/", "port": 9000}, "https://acme.example/consent"),
    ],
)
def test_links_lead_to_where_the_service_listens_unless_it_is_told(given: dict[str, object], links: str) -> None:
    assert load({}, **given).base_url == links
