"""The kinds of value that a configuration has: each reads a node, and describes itself as JSON Schema.

`read(node, name)` gives the value, or INVALID after it reported a problem at the node's place; `name` is what
the message calls the value. A kind holds no state, so the table of keys is built once from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from fastmesh.config.source import BROKEN, MAPPING, SCALAR, SEQUENCE, Node
from fastmesh.units import (
    DURATION_PATTERN,
    SHARE_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)


class _Invalid:
    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = _Invalid()

Schema = dict[str, Any]
VARIABLE_SCHEMA: Final[Schema] = {"$ref": "#/$defs/variable"}


class Wrong(ValueError):
    """A check's finding: what is wrong, and what to do."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


class Kind(Protocol):
    """What every kind offers; `says` ends the sentence "this needs …"."""

    says: str

    def read(self, node: Node, name: str) -> Any: ...

    def schema(self) -> Schema: ...

    @property
    def label(self) -> str:
        """The type, for the documentation's tables."""
        ...


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, as a suggestion."""
    import difflib  # only mistakes need it

    folded = {candidate.lower(): candidate for candidate in known}
    for variant in (word.lower(), word.lower().replace("-", "_"), word.lower().replace("_", "-")):
        if variant in folded:
            return f"did you mean `{folded[variant]}`?"
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f"did you mean `{folded[close[0]]}`?" if close else None


def one_of(words: Iterable[str], joint: str = "or") -> str:
    """`a`, `b` or `c`."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {joint} {quoted[-1]}"


def all_of(words: Iterable[str]) -> str:
    """`a`, `b` and `c`."""
    return one_of(words, "and")


def problem(node: Node, message: str, suggestion: str | None = None) -> _Invalid:
    """Report an error at `node`; the result is INVALID, to be returned."""
    node.doc.report(node.line, node.column, message, suggestion)
    return INVALID


def wrong_shape(node: Node, name: str, says: str, suggestion: str | None = None) -> _Invalid:
    """Report that a value of another shape stands where `says` is needed."""
    if node.kind == BROKEN:
        return INVALID
    if node.is_null:
        return problem(node, f"`{name}` has no value", f"write {says}, or remove the key")
    return problem(node, f"`{name}` needs {says}, not {node.describe()}", suggestion)


class Text:
    """Text, checked and brought into its canonical form by `convert`, which raises ValueError."""

    def __init__(
        self,
        says: str,
        convert: Callable[[str], Any] | None = None,
        pattern: str | None = None,
        words: Mapping[str, Any] | None = None,
    ) -> None:
        self.says = says
        self.convert = convert
        self.pattern = pattern
        self.words = words or {}

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SCALAR or node.is_null:
            return wrong_shape(node, name, self.says)
        text = node.text
        if text in self.words:
            return self.words[text]
        if self.convert is None:
            return text
        try:
            return self.convert(text)
        except Wrong as wrong:
            return problem(node, f"`{name}`: {wrong.message}", wrong.suggestion)
        except ValueError as error:
            message, _, suggestion = str(error).partition("; ")
            return problem(node, f"`{name}`: {message}", suggestion or None)

    def schema(self) -> Schema:
        schema: Schema = {"type": ["string", "number", "boolean"]}
        if self.pattern:
            return {"anyOf": [{**schema, "pattern": self.pattern}, VARIABLE_SCHEMA]}
        return schema

    @property
    def label(self) -> str:
        return "text"


class Quantity(Text):
    """A number with a unit; `least` and `most` bound the result, `words` such as `none` stand for others."""

    def __init__(
        self,
        says: str,
        what: str,
        parse: Callable[[str], float],
        show: Callable[[Any], str],
        pattern: str,
        least: float,
        most: float | None,
        words: Mapping[str, Any],
    ) -> None:
        self.what = what
        choices = "".join(f"|{word}" for word in words)
        super().__init__(says, self._bounded, f"^({pattern}{choices})$", words)
        self.parse = parse
        self.show = show
        self.least = least
        self.most = most

    def _bounded(self, text: str) -> float:
        if text in ("none", "off", "never"):
            raise Wrong(f"`{text}` is not possible here", f"write {self.says}")
        value = self.parse(text)
        if value < self.least:
            raise Wrong(f"`{text}` is too small", f"the least is {self.show(self.least)}")
        if self.most is not None and value > self.most:
            raise Wrong(f"`{text}` is too large", f"the most is {self.show(self.most)}")
        return value

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string", "pattern": self.pattern}, VARIABLE_SCHEMA]}

    @property
    def label(self) -> str:
        return self.what + "".join(f" or `{word}`" for word in self.words)


NONE: Final[Mapping[str, Any]] = {"none": None}


def duration(least: float = 0.001, most: float | None = None, none: bool | float = False) -> Quantity:
    """Seconds, written `250ms`, `2s`, `1h30m`; `none` (no limit) gives None, or the number given."""
    says = "a duration such as `2s`" + (", or `none`" if none else "")
    pattern = f"(?=.)(?:{DURATION_PATTERN})"
    words = {} if none is False else NONE if none is True else {"none": none}
    return Quantity(says, "duration", parse_duration, format_duration, pattern, least, most, words)


def size(
    least: int = 1, most: int | None = None, none: bool = False, words: Mapping[str, Any] | None = None
) -> Quantity:
    """Bytes, written `16KiB`; `none` for no limit where allowed, or other `words`."""
    words = NONE if none else words or {}
    says = "a size such as `16KiB`" + "".join(f", or `{word}`" for word in words)
    return Quantity(says, "size", parse_size, format_size, SIZE_PATTERN, least, most, words)


def share(least: float = 0.0, most: float | None = None, none: bool = False) -> Quantity:
    """A fraction, written `20%`; `none` for no limit where allowed."""
    says = "a percentage such as `20%`" + (", or `none`" if none else "")
    return Quantity(
        says, "share", parse_share, format_share, SHARE_PATTERN, least, most, NONE if none else {}
    )


_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")


class Integer:
    """A whole number from `least` to `most`; `words` such as `auto` stand for other values."""

    def __init__(
        self,
        least: int,
        most: int,
        words: Mapping[str, Any] | None = None,
        check: Callable[[int], None] | None = None,
    ) -> None:
        self.least = least
        self.most = most
        self.words = words or {}
        self.check = check
        choices = "".join(f", or `{word}`" for word in self.words)
        self.says = f"a whole number from {least:,} to {most:,}{choices}"

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SCALAR or node.is_null:
            return wrong_shape(node, name, self.says)
        text = node.text
        if text in self.words:
            return self.words[text]
        if not _INTEGER.fullmatch(text):
            return problem(node, f"`{name}` needs {self.says}, not {node.describe()}")
        if not node.plain:
            return problem(
                node, f"`{name}` needs a number, and quotes make {node.describe()} text", "remove the quotes"
            )
        digits = text.lstrip("+-")
        if digits != "0" and digits.startswith("0"):
            return problem(node, f"`{name}`: `{text}` starts with 0", f"write `{digits.lstrip('0') or 0}`")
        value = int(text)
        if not self.least <= value <= self.most:
            return problem(node, f"`{name}`: {text} is out of range", f"write {self.says}")
        if self.check is not None:
            try:
                self.check(value)
            except Wrong as wrong:
                return problem(node, f"`{name}`: {wrong.message}", wrong.suggestion)
        return value

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if self.words:
            return {"anyOf": [number, {"enum": list(self.words)}, VARIABLE_SCHEMA]}
        return {"anyOf": [number, VARIABLE_SCHEMA]}

    @property
    def label(self) -> str:
        return f"number, {self.least:,} to {self.most:,}" + "".join(f", or `{word}`" for word in self.words)


class Boolean:
    """`true` or `false`."""

    says = "`true` or `false`"
    _MEANT: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SCALAR or node.is_null:
            return wrong_shape(node, name, self.says)
        word = node.text.lower()
        if word in ("true", "false") and node.text in (word, word.title(), word.upper()):
            if node.plain:
                return word == "true"
            return problem(
                node,
                f"`{name}` needs {self.says}, and quotes make {node.describe()} text",
                "remove the quotes",
            )
        meant = self._MEANT.get(word)
        suggestion = f"`{node.text}` is text in YAML 1.2: write `{meant}`" if meant else None
        return problem(node, f"`{name}` needs {self.says}, not {node.describe()}", suggestion)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, VARIABLE_SCHEMA]}

    @property
    def label(self) -> str:
        return self.says


class Choice:
    """One of a few words, each standing for a value; the words of `unbuilt` are refused as not built yet."""

    def __init__(self, words: Mapping[str, Any], unbuilt: Iterable[str] = (), what: str = "value") -> None:
        self.words = words
        self.unbuilt = frozenset(unbuilt)
        self.what = what
        self.says = one_of(words)

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SCALAR or node.is_null:
            return wrong_shape(node, name, self.says)
        text = node.text
        if text in self.words:
            return self.words[text]
        if text in self.unbuilt:
            return problem(node, f"`{name}`: `{text}` is not built yet", f"use {self.says}")
        suggestion = did_you_mean(text, self.words) or f"write {self.says}"
        return problem(node, f"`{name}`: there is no {self.what} `{text}`", suggestion)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, VARIABLE_SCHEMA]}

    @property
    def label(self) -> str:
        return self.says


class ListOf:
    """A list of one kind, as a tuple of (node, value); with `single`, a value alone is a list of one."""

    def __init__(self, item: Kind, says: str, single: bool = False, empty: bool = True) -> None:
        self.item = item
        self.single = single
        self.empty = empty
        self.says = says

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SEQUENCE:
            if self.single and not node.is_null:
                value = self.item.read(node, name)
                return INVALID if value is INVALID else ((node, value),)
            return wrong_shape(node, name, self.says)
        if not node.items and not self.empty:
            return problem(node, f"`{name}` is an empty list", f"write {self.says}, or remove the key")
        read = self.item.read
        pairs = [(item, read(item, name)) for item in node.items]
        return tuple([pair for pair in pairs if pair[1] is not INVALID])

    def schema(self) -> Schema:
        many: Schema = {"type": "array", "items": self.item.schema()}
        if not self.empty:
            many["minItems"] = 1
        return {"anyOf": [many, self.item.schema()]} if self.single else many

    @property
    def label(self) -> str:
        return f"{self.item.label}, or a list of them" if self.single else f"list of: {self.item.label}"


class Item(NamedTuple):
    """One pair of a MapOf; `value` may be INVALID."""

    key: Node
    node: Node
    value: Any


class MapOf:
    """A mapping with names of the user's choice, as a dict of name -> Item."""

    def __init__(
        self,
        value: Kind,
        says: str,
        key: Callable[[str], str] | None = None,
        key_pattern: str | None = None,
        empty: bool = True,
    ) -> None:
        self.value = value
        self.key = key
        self.key_pattern = key_pattern
        self.empty = empty
        self.says = says

    def read(self, node: Node, name: str) -> Any:
        if node.kind != MAPPING:
            return wrong_shape(node, name, self.says)
        if not node.items and not self.empty:
            return problem(node, f"`{name}` is empty", f"write {self.says}, or remove the key")
        result: dict[str, Item] = {}
        for key, item in node.items:
            text = key.text
            value = self.value.read(item, text)
            if self.key is not None:
                try:
                    text = self.key(text)
                except Wrong as wrong:
                    problem(key, f"`{name}`: {wrong.message}", wrong.suggestion)
                    continue
                if text in result:
                    problem(key, f"`{name}`: `{key.text}` is set twice", "remove one")
                    continue
            result[text] = Item(key, item, value)
        return result

    def schema(self) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.value.schema()}
        if self.key_pattern:
            schema["propertyNames"] = {"pattern": self.key_pattern}
        if not self.empty:
            schema["minProperties"] = 1
        return schema

    @property
    def label(self) -> str:
        return f"mapping of names to: {self.value.label}"


class Field:
    """One key of a section: its kind, and what the documentation says.

    `default` is the built-in default as it would be written in a file (None: there is none). `late` marks a
    key that is checked but not in effect yet.
    """

    __slots__ = ("default", "doc", "example", "kind", "late", "required")

    def __init__(
        self,
        kind: Kind,
        doc: str,
        *,
        default: Any = None,
        example: Any = None,
        required: bool = False,
        late: bool = False,
    ) -> None:
        self.kind = kind
        self.doc = doc
        self.default = default
        self.example = example
        self.required = required
        self.late = late

    def schema(self) -> Schema:
        schema = dict(self.kind.schema())
        schema["description"] = self.doc + (" Not in effect yet." if self.late else "")
        if self.default is not None:
            schema["default"] = self.default
        if self.example is not None:
            schema["examples"] = [self.example]
        return schema


class Values:
    """What was read of a section.

    `values` by key, without the INVALID ones; `keys` and `nodes` are the nodes of all keys and of their
    values.
    """

    __slots__ = ("keys", "node", "nodes", "values")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.values: dict[str, Any] = {}
        self.keys: dict[str, Node] = {}
        self.nodes: dict[str, Node] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def has(self, key: str) -> bool:
        """Whether the key is written, valid or not."""
        return key in self.keys


class Section:
    """A mapping with known keys, as Values. Messages call it `title`: "a route", "service `{name}`".

    `hints` say what to do about words that people write here by mistake: keys that belong elsewhere, or a
    scalar in the place of the mapping.
    """

    def __init__(
        self,
        title: str,
        fields: Mapping[str, Field],
        rules: Schema | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> None:
        self.title = title
        self.rules = rules or {}  # what the schema says of keys that depend on each other
        self.fields = fields
        self.hints = hints or {}
        self.says = f"a mapping with {one_of(list(fields)[:3])}" if len(fields) < 4 else "a mapping"

    def read(self, node: Node, name: str) -> Any:
        if node.kind != MAPPING:
            return wrong_shape(node, name, self.says, self.hints.get(node.text))
        result = Values(node)
        title = self.title.replace("{name}", name)
        for key, item in node.items:
            text = key.text
            field = self.fields.get(text)
            result.keys[text] = key
            result.nodes[text] = item
            if field is None:
                suggestion = self.hints.get(text) or did_you_mean(text, self.fields)
                suggestion = suggestion or f"the keys here are {all_of(self.fields)}"
                problem(key, f"{title} has no key `{text}`", suggestion)
                continue
            value = field.kind.read(item, text)
            if value is not INVALID:
                result.values[text] = value
            if field.late:
                key.doc.report(key.line, key.column, f"`{text}` is not in effect yet", severity="warning")
        for text, field in self.fields.items():
            if field.required and text not in result.keys:
                problem(node, f"{title} needs `{text}`", f"write {field.kind.says}")
        return result

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
            "additionalProperties": False,
        }
        required = [name for name, field in self.fields.items() if field.required]
        if required:
            schema["required"] = required
        return schema | self.rules

    @property
    def label(self) -> str:
        return "mapping"


class ByShape:
    """A value that may be written in a short form (a scalar, a list) or as a mapping."""

    def __init__(
        self,
        says: str,
        scalar: Kind | None = None,
        sequence: Kind | None = None,
        mapping: Kind | None = None,
    ) -> None:
        self.says = says
        self.kinds = {SCALAR: scalar, SEQUENCE: sequence, MAPPING: mapping}

    def read(self, node: Node, name: str) -> Any:
        kind = self.kinds.get(node.kind)
        if kind is None or node.is_null:
            return wrong_shape(node, name, self.says)
        return kind.read(node, name)

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds.values() if kind is not None]}

    @property
    def label(self) -> str:
        return ", or ".join(kind.label for kind in self.kinds.values() if kind is not None)


class Named:
    """A kind whose schema stands once in `$defs` and is referred to by name; `all` has every one of them."""

    all: ClassVar[dict[str, Kind]] = {}

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.kind = kind
        self.says = kind.says
        self.all[name] = kind

    def read(self, node: Node, name: str) -> Any:
        return self.kind.read(node, name)

    def schema(self) -> Schema:
        return {"$ref": f"#/$defs/{self.name}"}

    @property
    def label(self) -> str:
        return self.kind.label
