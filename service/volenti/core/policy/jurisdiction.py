"""Places as the law names them: ISO 3166 codes, and which of them the law of the EU and of the EEA covers."""

# ruff: noqa: SIM905 - the tables are to be read and compared, not lists of 250 quoted strings

import re
from functools import lru_cache

DEFAULT = "default"

EU = frozenset(
    # The member states, then the outermost regions and Åland: Union law applies there under country codes of their own.
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK AX GF GP MF MQ RE YT".split()
)
EEA = EU | {"IS", "LI", "NO"}
GROUPS = {"EU": EU, "EEA": EEA}

COUNTRIES = frozenset(
    # ISO 3166-1 alpha-2, and XK, which the EU and the carriers use for Kosovo.
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
    GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO
    JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR
    MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO
    RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK
    """.split()
)
OFTEN_MEANT = {"UK": "GB", "EL": "GR"}
"""Codes that people write for a country, and the ISO code that it has."""

_SUBDIVISION = re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}")


def is_jurisdiction(code: str) -> bool:
    """Whether the code names a country (`DE`), a subdivision of one (`US-CA`), `EU` or `EEA`."""
    if code in COUNTRIES or code in GROUPS:
        return True
    return _SUBDIVISION.fullmatch(code) is not None and code[:2] in COUNTRIES


@lru_cache(maxsize=1024)
def lookup_order(code: str) -> tuple[str, ...]:
    """Give the rows that may hold the rule of a place, nearest first: itself, its country, `EU`, `EEA`, `default`."""
    country = code if code in GROUPS else code[:2]
    nearest = (code,) if code == country else (code, country)
    groups = tuple(group for group, members in GROUPS.items() if country in members or (code, group) == ("EU", "EEA"))
    return (*nearest, *groups, DEFAULT)


def lies_within(code: str, area: str) -> bool:
    """Whether a place is the area itself or a part of it: a subdivision of the country, a member of `EU` or `EEA`."""
    if code == area or (code, area) == ("EU", "EEA"):
        return True
    if code in GROUPS or code == DEFAULT:
        return False
    country = code[:2]
    return country == area or country in GROUPS.get(area, ())
