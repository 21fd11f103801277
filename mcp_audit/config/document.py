"""YAML text -> a tree of nodes that know their line. Nothing is interpreted here: a scalar keeps its letters.

The events of the parser are composed here and not by PyYAML, whose composer recurses into whatever nesting a file has
(with libyaml that ends the process) and shares aliased nodes, so that a small file can stand for a huge one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mcp_audit.errors import ConfigError

__all__ = ["Mapping", "Node", "Scalar", "Sequence", "compose", "decode"]

MAX_DEPTH = 64
MAX_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {
    "",
    "!",
    _TAG + "str",
    _TAG + "int",
    _TAG + "float",
    _TAG + "bool",
    _TAG + "null",
    _TAG + "map",
    _TAG + "seq",
}


@dataclass(slots=True)
class Node:
    """Part of a document; `line` counts from 1, `weight` is how many nodes it stands for, aliases expanded."""

    line: int
    weight: int = field(default=1, kw_only=True)


@dataclass(slots=True)
class Scalar(Node):
    """A scalar; `quoted` if the writer made plain that it is a text (quotes, a block, or the tag `!!str`)."""

    text: str
    quoted: bool = False


@dataclass(slots=True)
class Sequence(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping(Node):
    """A mapping in the order of the text, repeated keys included."""

    pairs: list[tuple[Node, Node]] = field(default_factory=list)


def decode(raw: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError("", "the file is UTF-16; save it as UTF-8", name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError("", problem, f"{name}:{line}") from None


def compose(text: str, name: str) -> Node | None:
    """Return the tree of the one document in `text`, None if it holds nothing; `name` is for sentences.

    Raises:
        ConfigError: not YAML, more than one document, or something that no configuration needs.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Composer(yaml, name).compose(yaml.parse(text, loader))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise ConfigError("", "it holds a control character, which YAML does not allow", f"{name}:{line}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # libyaml may point past the end of the text.
        line = min(mark.line + 1, text.count("\n", 0, len(text.rstrip())) + 1) if mark else 1
        raise ConfigError("", _sentence(error, text, line), f"{name}:{line}") from None


def _sentence(error: Any, text: str, line: int) -> str:
    """Say what is wrong with the YAML in the words of someone who has to mend it."""
    lines = text.split("\n")
    shown = lines[line - 1] if line <= len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return "the line is indented with a tab; YAML allows only spaces there"
    problem = str(error.problem or "it cannot be read").replace("\n", " ")
    context = f" ({error.context})" if error.context else ""
    begun = error.context_mark.line + 1 if error.context_mark else line
    if "flow" in context and "expected ',' or" in problem:
        return f"not YAML: the bracket that opens in line {begun} is not closed, or a comma is missing"
    if "quoted scalar" in context and "end of stream" in problem:
        return f"not YAML: the quote that opens in line {begun} is not closed"
    if "mapping values are not allowed" in problem:
        return "not YAML: a second `: ` in the line; put the value in quotes, or check the indentation"
    if "cannot start any token" in problem and (mark := error.problem_mark):
        at = shown[mark.column : mark.column + 1]
        return f"not YAML: a value cannot start with {at or 'this'!r} unless it is in quotes"
    return f"not YAML: {problem}{context}"


class _Composer:
    """Builds the tree from events; one use per document."""

    def __init__(self, yaml: Any, name: str) -> None:
        self._yaml = yaml
        self._name = name
        self._anchors: dict[str, Node | None] = {}  # None while the node is still being built

    def compose(self, events: Any) -> Node | None:
        yaml = self._yaml
        root: Node | None = None
        documents = 0
        stack: list[tuple[Node, list[Node], str | None]] = []  # open collections: node, children, anchor
        for event in events:
            node: Node | None = None
            anchor: str | None = getattr(event, "anchor", None)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document begins here; the configuration is one document")
            elif isinstance(event, yaml.ScalarEvent):
                node = self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event, stack)
            elif isinstance(event, yaml.CollectionEndEvent):
                node, children, anchor = stack.pop()
                self._close(event, node, children)
            elif isinstance(event, yaml.AliasEvent):
                node, anchor = self._alias(event), None
            if node is not None:
                if anchor:
                    self._anchors[anchor] = node
                if stack:
                    stack[-1][1].append(node)
                else:
                    root = node
        return root

    def _refuse(self, event: Any, problem: str) -> None:
        raise ConfigError("", problem, f"{self._name}:{event.start_mark.line + 1}")

    def _tag(self, event: Any) -> str:
        tag = event.tag or ""
        if tag not in _PLAIN_TAGS:
            self._refuse(event, f"the tag {tag.replace(_TAG, '!!')} has no meaning here; remove it")
        return tag

    def _scalar(self, event: Any) -> Scalar:
        tag = self._tag(event)
        # A standard tag other than !!str only repeats what the key demands anyway.
        quoted = tag in ("!", _TAG + "str") or (not tag and not event.implicit[0])
        return Scalar(event.start_mark.line + 1, event.value, quoted)

    def _open(self, event: Any, stack: list[tuple[Node, list[Node], str | None]]) -> None:
        self._tag(event)
        if len(stack) >= MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor:
            self._anchors[event.anchor] = None
        line = event.start_mark.line + 1
        kind = Mapping if isinstance(event, self._yaml.MappingStartEvent) else Sequence
        stack.append((kind(line), [], event.anchor))

    def _close(self, event: Any, node: Node, children: list[Node]) -> None:
        node.weight += sum(child.weight for child in children)
        if node.weight > MAX_NODES:
            self._refuse(event, f"the document has more than {MAX_NODES} values, counting each use of an alias")
        if isinstance(node, Mapping):
            node.pairs = list(zip(children[::2], children[1::2], strict=True))
        elif isinstance(node, Sequence):
            node.items = children

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            self._refuse(event, f"*{event.anchor} has no anchor &{event.anchor} before it")
        node = self._anchors[event.anchor]
        if node is None:
            self._refuse(event, f"*{event.anchor} stands inside the value it names")
        assert node is not None
        return node
