"""A tree of nodes and a struct type -> values by dotted key, each with where it was written; and every problem at once.

Promise: whatever is not in the type is a problem with its line, nothing is skipped in silence, and no value of a secret
gets into a sentence. Not here: precedence between sources, and what two keys say about each other.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import NODEFAULT, Struct

from mcp_audit.config import scalars
from mcp_audit.config.document import Mapping, Node, Scalar, Sequence
from mcp_audit.config.scalars import Unfit
from mcp_audit.config.shapes import ALIASES, Leaf, Shape, members_of, paths_of, shape_of
from mcp_audit.config.spelling import near
from mcp_audit.errors import ConfigError

__all__ = ["Reader"]


class Reader:
    """Reads nodes of one source; `problems` collects what is wrong.

    Args:
        root: the struct at the top, whose keys unknown ones are compared with.
        name: the file, of which lines are named as `name:line`; or, with `lines` false, the source itself.
        hint: follows the sentence about an unknown section.
    """

    def __init__(self, root: type[Struct], name: str, *, lines: bool = True, hint: str = "") -> None:
        self.problems: list[ConfigError] = []
        self._root = root
        self._name = name
        self._lines = lines
        self._hint = hint
        self._parts: dict[str, str] = {}

    def read(self, node: Node | None, path: str = "") -> dict[str, Leaf]:
        """Return the settings that `node` gives at `path` (the top, a section or one setting)."""
        found: dict[str, Leaf] = {}
        shape = self._at(path)
        if node is None or shape is None or _is_null(node):
            return found
        if shape.section is not None:
            self._section(node, shape.section, path, found)
        else:
            self._setting(node, shape, path, found)
        return found

    def where(self, node: Node) -> str:
        """Say where a node stands."""
        return f"{self._name}:{node.line}" if self._lines else self._name

    def problem(self, node: Node, path: str, problem: str) -> None:
        """Note what is wrong with the setting `path`."""
        self.problems.append(ConfigError(path, problem, self.where(node)))

    def _at(self, path: str) -> Shape | None:
        shape = Shape((self._root,), ())
        for name in path.split(".") if path else ():
            if shape.section is None or name not in members_of(shape.section):
                return None
            shape = members_of(shape.section)[name][1]
        return shape

    def _section(self, node: Node, struct: type[Struct], path: str, found: dict[str, Leaf]) -> None:
        members = members_of(struct)
        for name, key, value in self._pairs(node, path):
            dotted = f"{path}.{name}" if path else name
            dotted = ALIASES.get(dotted, dotted)
            name = dotted.rpartition(".")[2]
            if name not in members:
                self.problem(key, dotted, self._unknown(name, path, struct))
            elif dotted in found:
                self.problem(key, dotted, "is given twice, under two spellings; keep one")
            elif not _is_null(value):
                section = members[name][1].section
                if section is not None:
                    self._section(value, section, dotted, found)
                else:
                    self._setting(value, members[name][1], dotted, found, key)

    def _setting(self, node: Node, shape: Shape, path: str, found: dict[str, Leaf], key: Node | None = None) -> None:
        before = len(self.problems)
        self._parts = {}
        value = self._value(node, shape, path)
        if len(self.problems) == before:
            found[path] = Leaf(value, self.where(key or node), self._parts)

    def _pairs(self, node: Node, path: str) -> Iterator[tuple[str, Node, Node]]:
        """Yield name, key and value of a mapping; repeated keys are problems, `<<` brings what is not given."""
        if not isinstance(node, Mapping):
            self.problem(node, path, f"must be a mapping of keys to values, found {_kind(node)}")
            return
        seen: dict[str, Node] = {}
        for key, value in self._merged(node, path):
            if not isinstance(key, Scalar):
                self.problem(key, path, f"has {_kind(key)} as a key; keys are names")
            elif key.text in seen:
                first = seen[key.text].line
                dotted = f"{path}.{key.text}" if path else key.text
                self.problem(key, dotted, f"is given twice, first in line {first}; keep one")
            else:
                seen[key.text] = key
                yield key.text, key, value

    def _merged(self, node: Mapping, path: str) -> Iterator[tuple[Node, Node]]:
        own = [pair for pair in node.pairs if not _is_merge(pair[0])]
        yield from own
        names = {key.text for key, _ in own if isinstance(key, Scalar)}
        for key, value in node.pairs:
            if not _is_merge(key):
                continue
            for source in value.items if isinstance(value, Sequence) else [value]:
                if not isinstance(source, Mapping):
                    self.problem(key, path, f"merges {_kind(source)} with `<<`; only mappings can be merged")
                    continue
                for pair in self._merged(source, path):
                    if isinstance(pair[0], Scalar) and pair[0].text not in names:
                        names.add(pair[0].text)
                        yield pair

    def _unknown(self, name: str, path: str, struct: type[Struct]) -> str:
        spellings = {key.rpartition(".")[2] for key in ALIASES if key.rpartition(".")[0] == path}
        known = [*members_of(struct), *spellings]
        hint = self._hint if not path and struct is self._root else ""
        if guess := near(name, known):
            return f"there is no such key; did you mean `{guess}`?{hint}"
        elsewhere = [key for key in paths_of(self._root) if key.endswith("." + name)]
        if elsewhere:
            return f"there is no such key here; did you mean `{'` or `'.join(elsewhere[:3])}`?{hint}"
        return f"there is no such key; allowed here: {', '.join(members_of(struct))}{hint}"

    def _value(self, node: Node, shape: Shape, path: str) -> Any:
        """Return the node as plain data of that shape; after a problem the result means nothing."""
        self._parts[path] = self.where(node)
        kind = _choose(node, shape)
        origin = typing.get_origin(kind)
        if kind is Any:
            return self._any(node, path)
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self._record(node, kind, path)
        if origin is tuple:
            return self._list(node, shape_of(typing.get_args(kind)[0]), path)
        if origin is dict:
            return self._dict(node, kind, path)
        if not isinstance(node, Scalar):
            self.problem(node, path, f"must be {_wanted(kind, shape)}, found {_kind(node)}")
            return None
        try:
            value = _scalar(node, kind, shape)
            _check(value, shape)
        except Unfit as unfit:
            self.problem(node, path, str(unfit))
            return None
        return value

    def _list(self, node: Node, item: Shape, path: str) -> list[Any]:
        if not isinstance(node, Sequence):
            self.problem(node, path, f"must be a list such as [a, b], found {_kind(node)}")
            return []
        return [self._value(child, item, f"{path}[{index}]") for index, child in enumerate(node.items)]

    def _dict(self, node: Node, kind: Any, path: str) -> dict[str, Any]:
        key_shape, value_shape = map(shape_of, typing.get_args(kind))
        result: dict[str, Any] = {}
        for name, key, value in self._pairs(node, path):
            try:
                _check(scalars.text(name), key_shape)
            except Unfit as unfit:
                self.problem(key, f"{path}.{name}", f"is not a key that fits here: {unfit}")
            result[name] = self._value(value, value_shape, f"{path}.{name}")
        return result

    def _record(self, node: Node, struct: type[Struct], path: str) -> dict[str, Any]:
        members = members_of(struct)
        result: dict[str, Any] = {}
        for name, key, value in self._pairs(node, path):
            if name not in members:
                self.problem(key, f"{path}.{name}", self._unknown(name, path, struct))
            elif not _is_null(value) or Any in members[name][1].types:
                result[name] = self._value(value, members[name][1], f"{path}.{name}")
        if isinstance(node, Mapping):
            for name, (info, shape) in members.items():
                if name not in result and info.default is NODEFAULT and info.default_factory is NODEFAULT:
                    self.problem(node, path, f"needs `{name}`, {_wanted(shape.types[0], shape)}")
        return result

    def _any(self, node: Node, path: str) -> Any:
        if isinstance(node, Sequence):
            return [self._any(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        if isinstance(node, Mapping):
            return {name: self._any(value, f"{path}.{name}") for name, _, value in self._pairs(node, path)}
        assert isinstance(node, Scalar)
        try:
            return scalars.any_value(node.text, node.quoted)
        except Unfit as unfit:
            self.problem(node, path, str(unfit))
            return None


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and scalars.is_null(node.text, node.quoted)


def _is_merge(key: Node) -> bool:
    return isinstance(key, Scalar) and key.text == "<<" and not key.quoted


def _kind(node: Node) -> str:
    """Name a node without its content, which may be a secret in the wrong place."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "nothing" if _is_null(node) else "a single value"


def _choose(node: Node, shape: Shape) -> Any:
    """Return the alternative that fits the kind of node: a struct for a mapping, else what is left."""
    for kind in shape.types:
        if (isinstance(kind, type) and issubclass(kind, Struct)) == isinstance(node, Mapping):
            return kind
    return shape.types[0]


def _wanted(kind: Any, shape: Shape) -> str:
    if typing.get_origin(kind) is Literal:
        return _either(typing.get_args(kind))
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(kind, "a value")


def _either(choices: tuple[str, ...]) -> str:
    words = [choice or '""' for choice in choices]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _scalar(node: Scalar, kind: Any, shape: Shape) -> Any:
    if scalars.is_null(node.text, node.quoted):
        raise Unfit(f"must be {_wanted(kind, shape)}, found nothing")
    if kind is bool:
        return scalars.boolean(node.text, node.quoted)
    if float in shape.types:
        return scalars.number(node.text, node.quoted)
    if kind is int:
        return scalars.integer(node.text, node.quoted)
    value = scalars.text(node.text)
    if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
        choices = typing.get_args(kind)
        guess = near(value, filter(None, choices))
        raise Unfit(
            f"must be {_either(choices)}, found {value[:80]!r}" + (f"; did you mean `{guess}`?" if guess else "")
        )
    return value


def _check(value: Any, shape: Shape) -> None:
    """Hold a value against the constraints of its type, in words."""
    for meta in shape.metas:
        if meta.ge is not None and value < meta.ge:
            raise Unfit(f"must be {_range(shape)}, found {value}")
        if meta.le is not None and value > meta.le:
            raise Unfit(f"must be {_range(shape)}, found {value}")
        if meta.min_length is not None and len(value) < meta.min_length:
            raise Unfit("must not be empty")
        if meta.pattern is not None and not re.fullmatch(meta.pattern, value):
            allowed = (meta.extra or {}).get("allowed") or f"a text that matches {meta.pattern}"
            raise Unfit(f"must be {allowed}" + ("" if shape.secret else f", found {value[:80]!r}"))


def _range(shape: Shape) -> str:
    low = next((meta.ge for meta in shape.metas if meta.ge is not None), None)
    high = next((meta.le for meta in shape.metas if meta.le is not None), None)
    if high is None:
        return f"{low} or more"
    return f"from {low} to {high}"
