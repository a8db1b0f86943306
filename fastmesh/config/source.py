"""From the bytes of a file to a tree of nodes that know their place.

The composer works on YAML events and resolves nothing: a scalar keeps its text and whether it was plain or
quoted, so that `on`, `no`, `010` and `8080:53` stay text where a reader wants text (YAML 1.2). It is
iterative, so deep nesting cannot overflow a stack, and it reports duplicate keys, aliases that expand too
far, tags and further documents as problems at their place. Anchors, aliases and merge keys (`<<`) are
resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from fastmesh.errors import Problem, Severity

MAX_FILE_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 64
MAX_ALIAS_VALUES: Final = 100_000

SCALAR: Final = 0
SEQUENCE: Final = 1
MAPPING: Final = 2
BROKEN: Final = 3  # a problem is reported here already; readers pass over it in silence

Expand = Callable[["Document", str, int, int], str | None]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what YAML takes for one
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


class Node:
    """One value of a file.

    `kind` is SCALAR (`text`, `plain`: neither quoted nor a block), SEQUENCE (`items`: nodes) or MAPPING
    (`items`: (key, value) pairs of nodes). `line` and `column` count from 0. `size` is the number of values
    in it.
    """

    __slots__ = ("column", "doc", "items", "kind", "line", "plain", "size", "text")

    def __init__(self, doc: Document, kind: int, line: int, column: int, text: str = "", plain: bool = False):
        self.doc = doc
        self.kind = kind
        self.line = line
        self.column = column
        self.text = text
        self.plain = plain
        self.size = 1
        self.items: list[Any] = []

    @property
    def is_null(self) -> bool:
        """Whether this is what YAML 1.2 calls null: nothing, `~` or `null`, unquoted."""
        return self.kind == SCALAR and self.plain and self.text in _NULLS

    def describe(self) -> str:
        """What stands here, for a message: "a list", "a mapping", "nothing" or the text in backquotes."""
        if self.kind == SEQUENCE:
            return "a list"
        if self.kind == MAPPING:
            return "a mapping"
        if self.is_null:
            return "nothing"
        text = self.text if len(self.text) <= 60 else self.text[:57] + "…"
        return f"`{text}`" if self.plain else f'`"{text}"`'


class Document:
    """One file: its name for messages, its lines, and the problems found in it so far."""

    def __init__(self, name: str, path: Path, text: str = "") -> None:
        self.name = name
        self.path = path
        self.text = text
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """The text of line `number`, counted from 0 ("" past the end)."""
        if self._lines is None:
            self._lines = _LINE_BREAK.split(self.text)
        return self._lines[number] if 0 <= number < len(self._lines) else ""

    def report(
        self,
        line: int,
        column: int,
        message: str,
        suggestion: str | None = None,
        severity: Severity = "error",
    ) -> None:
        """Add a problem at a place counted from 0; line -1 means the file as a whole.

        Characters that cannot be printed are shown as escapes: a message is one line.
        """
        self.problems.append(
            Problem(
                file=self.name,
                line=line + 1,
                column=column + 1 if line >= 0 else 0,
                message=_printable(message),
                suggestion=suggestion and _printable(suggestion),
                severity=severity,
                source_line=self.line(line),
            )
        )


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])


def read_document(path: Path, name: str, expand: Expand) -> Document:
    """Read and compose `path`. The result's `root` is None when the file holds nothing usable.

    `expand(document, text, line, column)` is called for each scalar value that has a `$` in it, and gives
    None when it reported a problem.
    """
    document = Document(name, path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        document.report(-1, 0, *unreadable(error))
        return document
    if len(raw) > MAX_FILE_BYTES:
        document.report(-1, 0, "the file is larger than 64 MiB", "is this a configuration?")
        return document
    try:
        document.text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        start = raw.rfind(b"\n", 0, error.start) + 1
        document.text = raw.decode("utf-8-sig", "replace")
        column = len(raw[start : error.start].decode("utf-8-sig", "replace"))
        document.report(line, column, "the file is not UTF-8 text here", "save it as UTF-8")
        return document
    compose(document, expand)
    return document


def unreadable(error: OSError) -> tuple[str, str]:
    """What is wrong and what to do when a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist", "check the path"
    if isinstance(error, PermissionError):
        return "permission to read the file is denied", "check its owner and mode (`ls -l`)"
    if isinstance(error, IsADirectoryError):
        return "this is a folder", "name a file in it"
    return f"the file cannot be read: {error.strerror or error}", "check the path"


def compose(document: Document, expand: Expand) -> None:
    """Build `document.root` from `document.text`, reporting what is wrong with its YAML."""
    composer = _Composer(document, expand)
    try:
        composer.run()
    except yaml.YAMLError as error:
        document.root = None
        _report_syntax(document, error)
    except _TooMuch:
        document.root = None


class _TooMuch(Exception):
    """Composing stopped at a bound; the problem is already reported."""


class _Composer:
    def __init__(self, document: Document, expand: Expand) -> None:
        self.document = document
        self.expand = expand
        self.anchors: dict[str, Node] = {}
        self.open: list[Node] = []
        self.pending: list[Node | None] = []  # the key whose value comes next, for each open collection
        self.alias_values = 0

    def run(self) -> None:
        documents = 0
        for event in _events(self.document.text):
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.add(self.scalar(event), event.anchor)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.start(event, MAPPING if kind is yaml.MappingStartEvent else SEQUENCE)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self.end()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents == 2:
                    mark = event.start_mark
                    self.document.report(
                        mark.line,
                        mark.column,
                        "a second document starts here",
                        "a file holds one: split it into two files, or remove this line",
                    )
                    raise _TooMuch

    def scalar(self, event: Any) -> Node:
        mark = event.start_mark
        text: str = event.value
        plain: bool = event.implicit[0]
        if event.tag is not None:
            plain = event.tag in _CORE_TAGS
            if not plain and event.tag not in _TEXT_TAGS:
                self.refuse_tag(event)
                return Node(self.document, BROKEN, mark.line, mark.column, text)
        # `key:` and `${VAR}` as a key are told apart by whether the open mapping waits for a key
        is_key = bool(self.open) and self.open[-1].kind == MAPPING and self.pending[-1] is None
        if "$" in text:
            if not is_key:
                expanded = self.expand(self.document, text, mark.line, mark.column)
                if expanded is None:
                    return Node(self.document, BROKEN, mark.line, mark.column, text, plain)
                text = expanded
            elif "${" in text:
                self.document.report(
                    mark.line, mark.column, f"`{text}`: variables are expanded in values, not in keys"
                )
        return Node(self.document, SCALAR, mark.line, mark.column, text, plain)

    def refuse_tag(self, event: Any) -> None:
        shown = event.tag.replace("tag:yaml.org,2002:", "!!")
        mark = event.start_mark
        self.document.report(mark.line, mark.column, f"the tag `{shown}` is not supported", "remove it")

    def start(self, event: Any, kind: int) -> None:
        mark = event.start_mark
        if len(self.open) >= MAX_DEPTH:
            self.document.report(mark.line, mark.column, f"values are nested more than {MAX_DEPTH} deep")
            raise _TooMuch
        if event.tag is not None and event.tag not in _CORE_TAGS and event.tag != "!":
            self.refuse_tag(event)
        node = Node(self.document, kind, mark.line, mark.column)
        node.size = 0  # until it is closed: an alias to it from within is a loop
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self.open.append(node)
        self.pending.append(None)

    def end(self) -> None:
        node = self.open.pop()
        self.pending.pop()
        if node.kind == MAPPING:
            node.items = self.unique(node.items)
            node.size = 1 + sum([value.size for _, value in node.items])
        else:
            node.size = 1 + sum([item.size for item in node.items])
        self.add(node, None)

    def alias(self, event: Any) -> None:
        mark = event.start_mark
        target = self.anchors.get(event.anchor)
        if target is None:
            self.document.report(
                mark.line,
                mark.column,
                f"the alias `*{event.anchor}` has no anchor before it",
                f"write `&{event.anchor}` where the value stands, or quote the text",
            )
            target = Node(self.document, BROKEN, mark.line, mark.column)
        elif target.size == 0:
            self.document.report(
                mark.line, mark.column, f"the alias `*{event.anchor}` stands inside its own anchor"
            )
            raise _TooMuch
        self.alias_values += target.size
        if self.alias_values > MAX_ALIAS_VALUES:
            self.document.report(
                mark.line, mark.column, f"aliases expand to more than {MAX_ALIAS_VALUES:,} values in all"
            )
            raise _TooMuch
        self.add(target, None)

    def add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.document.root = node
            return
        parent = self.open[-1]
        if parent.kind == SEQUENCE:
            parent.items.append(node)
        elif (key := self.pending[-1]) is None:
            self.pending[-1] = node
        else:
            parent.items.append((key, node))
            self.pending[-1] = None

    def unique(self, pairs: list[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
        """The pairs of a mapping without duplicate or unusable keys, and with `<<` merged in."""
        seen: dict[str, Node] = {}
        kept: list[tuple[Node, Node]] = []
        merges: list[Node] = []
        for pair in pairs:
            key, value = pair
            if key.kind == BROKEN:
                continue
            if key.kind != SCALAR:
                self.document.report(key.line, key.column, f"{key.describe()} cannot be a key")
            elif not key.text:
                self.document.report(key.line, key.column, "the key is empty", "write a name before the `:`")
            elif key.plain and key.text == "<<":
                merges.append(value)
            elif (first := seen.get(key.text)) is not None:
                self.document.report(
                    key.line,
                    key.column,
                    f"`{key.text}` is set twice",
                    f"it was set in line {first.line + 1} already; remove one",
                )
            else:
                seen[key.text] = key
                kept.append(pair)
        for value in merges:
            self.merge(value, seen, kept)
        return kept

    def merge(self, value: Node, seen: dict[str, Node], kept: list[tuple[Node, Node]]) -> None:
        """Add the pairs of the mapping (or mappings) after `<<` whose keys are not set yet."""
        for source in value.items if value.kind == SEQUENCE else [value]:
            if source.kind != MAPPING:
                self.document.report(
                    source.line,
                    source.column,
                    f"`<<` merges mappings, and this is {source.describe()}",
                    "write `<<: *anchor`, where the anchor stands at a mapping",
                )
                continue
            for key, item in source.items:
                if key.text not in seen:
                    seen[key.text] = key
                    kept.append((key, item))


_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "map", "seq"))


def _events(text: str) -> Iterator[Any]:
    loader = _LOADER(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
    finally:
        loader.dispose()


_SYNTAX_ADVICE = (
    ("mapping values are not allowed", "quote a value that contains `: `, or check the indentation"),
    ("did not find expected key", "check the indentation of this line and of the one before"),
    ("did not find expected '-' indicator", "check the indentation: a list is expected to go on here"),
    ("did not find expected ',' or", "close the bracket, or put a comma between the values"),
    ("did not find expected node content", "write a value, or close the bracket"),
    ("unexpected end of stream", "close the quote"),
    ("unknown escape character", "write `\\\\` for a backslash, or use single quotes"),
    ("could not find expected ':'", "a `:` and a value are missing, or the indentation is wrong"),
)


def _report_syntax(document: Document, error: yaml.YAMLError) -> None:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a reader's error: a character that YAML does not allow
        position = getattr(error, "position", 0)
        line = document.text.count("\n", 0, position)
        column = position - (document.text.rfind("\n", 0, position) + 1)
        character = document.text[position : position + 1]
        shown = f"U+{ord(character):04X}" if character else "this"
        document.report(line, column, f"the character {shown} is not allowed in YAML", "remove it")
        return
    problem = str(getattr(error, "problem", error))
    line, column = mark.line, mark.column
    advice = next((text for start, text in _SYNTAX_ADVICE if start in problem), None)
    text = document.line(line)
    character = text[column : column + 1]
    if "${" in text[: column + 1] and "flow" in str(getattr(error, "context", "")):
        problem, advice = "`${…}` inside `{ }` or `[ ]` must be in quotes", 'write `"${VAR}"`'
    elif character == ":" and "did not find expected node content" in problem:
        problem, advice = "a value cannot start with `:` inside `{ }` or `[ ]`", "put it in quotes"
    elif "cannot start any token" in problem:
        if character == "\t":
            problem, advice = "a tab cannot indent", "indent with spaces"
        else:
            problem, advice = f"a value cannot start with `{character}`", "put it in quotes"
    else:
        problem = f"this is not valid YAML: {problem}"
    context_mark = getattr(error, "context_mark", None)
    if context_mark is not None and context_mark.line != line:
        context = str(getattr(error, "context", "") or "")
        opened = context.removeprefix("while parsing a ").removeprefix("while scanning a ")
        problem += f" (in the {opened} that starts in line {context_mark.line + 1})"
    last = max(0, document.text.rstrip("\n").count("\n"))
    if line > last:  # libyaml puts "unexpected end" on the line after the last
        line, column = last, len(document.line(last))
    document.report(line, column, problem, advice)


def plain_value(node: Node) -> Any:
    """What a YAML 1.2 core-schema loader would make of `node` (for JSON Schema checks)."""
    if node.kind == SEQUENCE:
        return [plain_value(item) for item in node.items]
    if node.kind == MAPPING:
        return {key.text: plain_value(value) for key, value in node.items}
    if not node.plain:
        return node.text
    if node.is_null:
        return None
    if node.text in ("true", "True", "TRUE"):
        return True
    if node.text in ("false", "False", "FALSE"):
        return False
    return _number(node.text)


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def _number(text: str) -> int | float | str:
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
