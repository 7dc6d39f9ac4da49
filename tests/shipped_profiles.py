"""The jurisdiction profiles of the repository, read once for all tests of the core."""

from pathlib import Path

from volenti.core.policy.profile import parse_profiles

FILE = Path(__file__).parents[1] / "jurisdictions" / "2026.11.yaml"
PROFILES = parse_profiles(FILE.read_text(encoding="utf-8"))
SHIPPED = {PROFILES.version: PROFILES}
