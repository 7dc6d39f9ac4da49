"""The jurisdiction profiles that are shipped with the service; `python -m volenti.flows.profiles FILE` writes the page of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from volenti.core.policy.document import Policy
from volenti.core.policy.page import jurisdiction_page
from volenti.core.policy.profile import Profiles, parse_profiles


@cache
def shipped() -> Mapping[str, Profiles]:
    """Every version of the profiles, by its name; read once a process."""
    folder = files("volenti") / "_data" / "jurisdictions"
    texts = (one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".yaml"))
    return {profiles.version: profiles for profiles in map(parse_profiles, texts)}


def profiles_of(policy: Policy) -> Profiles | None:
    """The version that a policy names; `None` if it names none, or one that is not shipped."""
    return None if policy.jurisdictions is None else shipped().get(policy.jurisdictions)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(jurisdiction_page(shipped()[max(shipped())]), encoding="utf-8")
