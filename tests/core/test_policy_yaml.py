"""YAML 1.2 as it is written is what is read; what would read differently from what it does is refused, with its line."""

import json
import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volenti.core.policy.yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, load


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("NO", "NO"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("Y", "Y"),
        ("22:00", "22:00"),
        ("21:30", "21:30"),
        ("7:30", "7:30"),
        ("08:00", "08:00"),
        ("2026-05-02", "2026-05-02"),
        ("2026-05-02T09:11:00Z", "2026-05-02T09:11:00Z"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("<<", "<<"),
        ("=", "="),
        ("1e3", 1000.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("-.INF", -math.inf),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ('"012"', "012"),
        ("'true'", "true"),
        ('""', ""),
        ("|\n  two\n  lines", "two\nlines"),
        (">-\n  one\n  line", "one line"),
    ],
)
def test_a_word_means_what_the_core_schema_says(word: str, expected: object) -> None:
    loaded = load(f"a: {word}")

    assert loaded.findings == ()
    assert loaded.value == {"a": expected}
    assert isinstance(loaded.value, dict)
    assert type(loaded.value["a"]) is type(expected)


def test_nan_is_a_number_that_is_none() -> None:
    loaded = load("[.nan]")

    assert isinstance(loaded.value, list)
    assert math.isnan(loaded.value[0])


@pytest.mark.parametrize(
    ("text", "line", "pointer", "message"),
    [
        ("a: 1\nb: 012", 2, "/b", "octal"),
        ("a: -07", 1, "/a", "octal"),
        ("a: [1, 00.5]", 1, "/a/1", "octal"),
        ("a: 1234567890123456", 1, "/a", "too many digits"),
        ("a: 1\nb: 2\na: 3", 3, "/a", "“a” appears twice; it is already on line 1"),
        ("x:\n  - {a: 1}\n  - a: 1\n    'a': {b: 2}", 4, "/x/1/a", "appears twice"),
        ("a: &b [1]", 1, "/a", "anchors are not allowed"),
        ("a: 1\nb: *a", 2, "/b", "aliases are not allowed"),
        ("*a : 1", 1, "", "aliases are not allowed"),
        ("a: !!str 1", 1, "/a", "tags are not allowed"),
        ("a: !!python/object:os.system x", 1, "/a", "tags are not allowed"),
        ("a: ! 1", 1, "/a", "tags are not allowed"),
        ("? [a]\n: 1", 1, "", "a key must be"),
        ("a: 1\n---\nb: 1", 2, "", "a second document"),
        ("%YAML 1.1\n---\na: 1", 1, "", "YAML 1.2"),
        ("a: 1\n\tb: 2", 2, "", "this is not YAML"),
        ("a:\n  b: 1\n c: 2", 3, "", "this is not YAML"),
        ("a: [1, 2", 1, "", "this is not YAML"),
        ("a: 1\nb: \x00", 2, "", "does not allow"),
        ("a: \ud800", 1, "", "does not allow"),
        ('"\\UFFFFFFFF"', 1, "", "out of range"),
        ('"\\U00110000"', 1, "", "out of range"),
        ("%YAML 1." + 5000 * "1" + "\n---\na", 1, "", "out of range"),
        ("? " + 600 * "k" + "\n: 1", 1, "", "too long"),
    ],
)
def test_what_reads_differently_from_what_it_does_is_refused(text: str, line: int, pointer: str, message: str) -> None:
    findings = load(text).findings

    assert [(line, pointer, "error")] == [(found.line, found.pointer, found.severity) for found in findings]
    assert message in findings[0].message


def test_a_document_may_say_that_it_is_yaml_1_2() -> None:
    assert load("%YAML 1.2\n---\na: NO\n...\n").value == {"a": "NO"}


def test_an_alias_bomb_ends_at_its_first_anchor_and_alias() -> None:
    bomb = 'a: &a ["x", "x"]\n' + "".join(
        f"{new}: &{new} [*{old}, *{old}, *{old}]\n"
        for old, new in zip(string.ascii_lowercase, string.ascii_lowercase[1:], strict=False)
    )

    assert [found.line for found in load(bomb).findings] == [1, 2, 2]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[{a: "])
def test_nesting_is_refused_beyond_its_limit_however_deep_the_text_goes(opening: str) -> None:
    findings = load(opening * (MAX_BYTES // len(opening))).findings

    assert [f"nested more than {MAX_DEPTH} deep"] == [found.message for found in findings]


def test_nesting_is_accepted_up_to_its_limit() -> None:
    assert load("[" * MAX_DEPTH + "]" * MAX_DEPTH).findings == ()


def test_size_is_counted_in_bytes() -> None:
    fits = "#" + "ü" * (MAX_BYTES // 2 - 1)

    assert load(fits).findings == ()
    assert [f"the document is larger than {MAX_BYTES // 1024} KiB"] == [f.message for f in load(fits + "ü").findings]


@pytest.mark.slow
def test_values_are_counted() -> None:
    assert [f"more than {MAX_VALUES} values"] == [f.message for f in load("[" + "a," * MAX_VALUES + "]").findings]


def test_every_member_has_the_line_on_which_it_stands() -> None:
    text = """\
# a comment
a: 1

b:
  - x
  - c: |
      some
      text
    d: {e: 1,
      f: [2]}
"a/b~c": >-
  folded
"""

    assert load(text).lines == {
        "": 2,
        "/a": 2,
        "/b": 4,
        "/b/0": 5,
        "/b/1": 6,
        "/b/1/c": 6,
        "/b/1/d": 9,
        "/b/1/d/e": 9,
        "/b/1/d/f": 10,
        "/b/1/d/f/0": 10,
        "/a~1b~0c": 11,
    }


def test_lines_are_right_with_the_line_ends_of_windows() -> None:
    assert load("a: 1\r\n\r\nb: 2\r\n").lines == {"": 1, "/a": 1, "/b": 3}


def test_a_key_is_text_as_it_is_written() -> None:
    assert load("{1: a, true: b, ~: c, NO: d}").value == {"1": "a", "true": "b", "~": "c", "NO": "d"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "--- ~"])
def test_an_empty_document_is_nothing(text: str) -> None:
    loaded = load(text)

    assert (loaded.value, loaded.findings) == (None, ())


yamlish = st.text(alphabet="ab01 \n\t:-?[]{}&*!|>%@'\"#,.~\\xuUN<=\r\ufeff\u2028é", max_size=60)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), yamlish))
def test_no_text_makes_the_loader_raise(text: str) -> None:
    loaded = load(text)

    assert all(found.line >= 1 and found.severity == "error" and found.message for found in loaded.findings)


@pytest.mark.parametrize("letter", ["\x85", "\u2028", "\u2029"])
def test_a_line_break_of_the_old_yaml_is_refused_and_may_be_escaped(letter: str) -> None:
    (finding,) = load(f'a: 1\nb: "x{letter}y"').findings
    assert (finding.line, f"U+{ord(letter):04X}" in finding.message) == (2, True)
    assert load(f'b: "x\\u{ord(letter):04X}y"').value == {"b": f"x{letter}y"}


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(plain_values)
def test_json_reads_as_itself_since_yaml_contains_it(value: object) -> None:
    loaded = load(json.dumps(value, ensure_ascii=False).replace("\x7f", "\\x7f"))

    if not loaded.findings:  # JSON may carry letters that YAML does not allow unescaped
        assert loaded.value == value
