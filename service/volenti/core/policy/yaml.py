"""YAML 1.2 text as plain values, with the line on which each of them stands.

PyYAML supplies the grammar (its event stream); what a word means is decided here by the core schema of YAML 1.2. So
`NO`, `on`, `22:00` and `2026-05-02` stay text, which PyYAML's own YAML 1.1 loaders would turn into other values.
Refused, since each reads differently from what it does: `012`, a member that appears twice, anchors and aliases, tags,
further documents, line breaks that only YAML 1.1 has. Nothing recurses, and size, depth, values and pointers are bounded, so that no text can exhaust
the stack or the memory.
"""

import re
from collections.abc import Mapping

import msgspec
import yaml

from volenti.core.policy.finding import Finding, child, quoted

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 65_536
MAX_POINTER = 512

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_BREAK_OF_1_1 = re.compile("[\x85\u2028\u2029]")
_MAX_DIGITS = 15


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a text, the line of each member by its JSON Pointer (`""` is the whole), and what was refused.

    With findings, which are all errors, the value is incomplete or `None`.
    """

    value: object
    lines: Mapping[str, int]
    findings: tuple[Finding, ...] = ()


def load(text: str) -> Loaded:
    """Give the value of one YAML 1.2 document. Never raises: what cannot be read is a finding."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return _refused(1, f"the document is larger than {MAX_BYTES // 1024} KiB")
    if (found := _BREAK_OF_1_1.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        return _refused(
            line,
            f"U+{ord(found[0]):04X} ends a line for one reader of YAML and not for another: write \\u{ord(found[0]):04X}",
        )
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if not builder.take(event):
                break
    except yaml.reader.ReaderError as error:
        return _refused(text.count("\n", 0, error.position) + 1, "a character that YAML does not allow")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be read"
        return _refused(mark.line + 1 if mark else 1, f"this is not YAML: {problem[:120]}")
    except (ValueError, OverflowError):  # PyYAML lets these out for \UFFFFFFFF and for a %YAML version of 5,000 digits
        return _refused(builder.line, "this is not YAML: a number or an escape out of range")
    return Loaded(value=builder.value, lines=builder.lines, findings=tuple(builder.findings))


def _refused(line: int, message: str) -> Loaded:
    finding = Finding(line=line, pointer="", severity="error", message=message)
    return Loaded(value=None, lines={"": line}, findings=(finding,))


class _Open(msgspec.Struct):
    """A mapping or sequence that is being read."""

    pointer: str
    into: dict[str, object] | list[object]
    key: str | None = None  # of a mapping: the member whose value comes next
    skipping: bool = False  # of a mapping: that member cannot be kept


class _Builder:
    """Puts values together from events, with a stack of its own instead of recursion."""

    def __init__(self) -> None:
        self.value: object = None
        self.lines: dict[str, int] = {"": 1}
        self.findings: list[Finding] = []
        self.line = 1
        self._open: list[_Open] = []
        self._documents = 0
        self._values = 0

    def take(self, event: yaml.Event) -> bool:
        """Take one event; false when nothing after it matters."""
        if event.start_mark is not None:
            self.line = event.start_mark.line + 1
        match event:
            case yaml.DocumentStartEvent():
                return self._start_document(event)
            case yaml.AliasEvent():
                return self._stop(f"aliases are not allowed: write out what {quoted(event.anchor or '')} stands for")
            case yaml.ScalarEvent() | yaml.CollectionStartEvent():
                return self._node(event)
            case yaml.CollectionEndEvent():
                self._open.pop()
                self._done()
            case _:
                pass
        return True

    def _start_document(self, event: yaml.DocumentStartEvent) -> bool:
        self._documents += 1
        if self._documents > 1:
            return self._stop("a second document begins here: a policy is one document")
        if event.version is not None and tuple(event.version) != (1, 2):
            return self._stop("a policy is YAML 1.2: remove the %YAML line, or say %YAML 1.2")
        return True

    def _node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> bool:
        self._values += 1
        if self._values > MAX_VALUES:
            return self._stop(f"more than {MAX_VALUES} values")
        if event.anchor is not None:
            self._refuse(f"anchors are not allowed: remove {quoted('&' + event.anchor)}")
        if event.tag is not None:
            self._refuse(f"tags are not allowed: remove {quoted(event.tag)}")
        if isinstance(event, yaml.ScalarEvent):
            if self._awaits_key():
                return self._key(event.value)
            self._put(event.value if event.style is not None else self._plain(event.value))
            return True
        return self._start_collection({} if isinstance(event, yaml.MappingStartEvent) else [])

    def _start_collection(self, into: dict[str, object] | list[object]) -> bool:
        if len(self._open) >= MAX_DEPTH:
            return self._stop(f"nested more than {MAX_DEPTH} deep")
        if self._awaits_key():
            return self._stop("a key must be one word or a text, not a list or a mapping")
        pointer = self._place()
        self._put(into)
        self._open.append(_Open(pointer=pointer, into=into))
        return True

    def _key(self, key: str) -> bool:
        top = self._open[-1]
        pointer = child(top.pointer, key)
        if len(pointer) > MAX_POINTER:
            return self._stop(f"the key {quoted(key)} is too long")
        top.key = key
        top.skipping = key in top.into
        if top.skipping:
            self._refuse(f"{quoted(key)} appears twice; it is already on line {self.lines[pointer]}")
        else:
            self.lines[pointer] = self.line
        return True

    def _plain(self, word: str) -> object:
        """Give the value of an unquoted word by the core schema (YAML 1.2.2, section 10.3.2)."""
        if word in _NULL:
            return None
        if word in _BOOL:
            return _BOOL[word]
        number = int if _INT.fullmatch(word) else float if _FLOAT.fullmatch(word) else None
        if number is None:
            return word
        if len(word) > _MAX_DIGITS:
            self._refuse("a number of too many digits: put it in quotes if it is text")
            return None
        if _LEADING_ZERO.match(word):
            self._refuse(f"{quoted(word)} may be read as octal: leave out the zero, or put it in quotes if it is text")
            return None
        if number is float:
            return float(word.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))

    def _put(self, value: object) -> None:
        """Set a value where the next one belongs, and note its line."""
        if not self._open:
            self.value = value
            self.lines[""] = self.line
            return
        top = self._open[-1]
        if isinstance(top.into, list):
            self.lines[child(top.pointer, len(top.into))] = self.line
            top.into.append(value)
        elif top.key is not None and not top.skipping:
            top.into[top.key] = value
        if not isinstance(value, dict | list):
            self._done()

    def _done(self) -> None:
        """Note that the value of a member is complete: a key comes next."""
        if self._open:
            self._open[-1].key = None

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].into, dict) and self._open[-1].key is None

    def _place(self) -> str:
        """Give the pointer of the value that comes next; where a key comes next, that of its mapping."""
        if not self._open:
            return ""
        top = self._open[-1]
        if isinstance(top.into, list):
            return child(top.pointer, len(top.into))
        return top.pointer if top.key is None else child(top.pointer, top.key)

    def _refuse(self, message: str) -> None:
        self.findings.append(Finding(line=self.line, pointer=self._place(), severity="error", message=message))

    def _stop(self, message: str) -> bool:
        self._refuse(message)
        return False
