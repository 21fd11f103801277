"""What the types of the settings say, taken apart once: keys, alternatives, constraints, which values are secret."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from msgspec import Meta, Struct, UnsetType
from msgspec.structs import FieldInfo, fields

__all__ = ["ALIASES", "Leaf", "Shape", "leaves_of", "members_of", "paths_of", "shape_of"]

# Another spelling of a key -> the key; dotted below the root struct.
ALIASES = {"metrics.include_python_metrics": "metrics.include_go_metrics"}


class Leaf(NamedTuple):
    """A value as plain data (what JSON could hold), where it was written, and where its parts were (`a.b[0].c`)."""

    value: Any
    where: str
    parts: Mapping[str, str]


class Shape(NamedTuple):
    """A field's type taken apart: alternatives and constraints."""

    types: tuple[Any, ...]
    metas: tuple[Meta, ...]

    @property
    def secret(self) -> bool:
        """Whether values must not be shown: the setting's own, or those of its mapping (headers)."""
        if any(meta.extra and meta.extra.get("secret") for meta in self.metas):
            return True
        kind = self.types[0]
        return typing.get_origin(kind) is dict and shape_of(typing.get_args(kind)[1]).secret

    @property
    def section(self) -> type[Struct] | None:
        """The struct, if the field is a section and its keys are settings of their own."""
        kind = self.types[0]
        return kind if len(self.types) == 1 and isinstance(kind, type) and issubclass(kind, Struct) else None


def shape_of(annotation: Any) -> Shape:
    """Take `Annotated[A | B, Meta(...)]` apart; unset is no alternative, for it cannot be written."""
    metas: tuple[Meta, ...] = ()
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *found = typing.get_args(annotation)
        metas = tuple(meta for meta in found if isinstance(meta, Meta))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return Shape(tuple(arg for arg in typing.get_args(annotation) if arg is not UnsetType), metas)
    return Shape((annotation,), metas)


@cache
def members_of(struct: type[Struct]) -> dict[str, tuple[FieldInfo, Shape]]:
    """Return the fields of a struct by the name they have in the file."""
    return {info.encode_name: (info, shape_of(info.type)) for info in fields(struct)}


@cache
def leaves_of(struct: type[Struct]) -> tuple[tuple[str, FieldInfo, Shape], ...]:
    """Return every setting below a struct with its dotted key, in the order of the types."""
    return tuple(_leaves(struct, ""))


def _leaves(struct: type[Struct], prefix: str) -> Iterator[tuple[str, FieldInfo, Shape]]:
    for name, (info, shape) in members_of(struct).items():
        if shape.section is not None:
            yield from _leaves(shape.section, f"{prefix}{name}.")
        else:
            yield prefix + name, info, shape


@cache
def paths_of(root: type[Struct]) -> tuple[str, ...]:
    """Return the dotted key of every setting and of every section below the top."""
    paths = [dotted for dotted, _, _ in leaves_of(root)]
    sections = {dotted.rpartition(".")[0] for dotted in paths}
    return (*paths, *sorted(section for section in sections if "." in section))
