"""How lenient readers understand a message: which tools each would call.

None of them is a straw man: each combination of decoding, splitting and parsing is what some server in the field does.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Node", "tools_called"]

Pairs = list[tuple[str, Any]]


def _last(pairs: Pairs) -> Any:
    return dict(pairs)


def _first(pairs: Pairs) -> Any:
    return dict(reversed(pairs))


def _folded(pairs: Pairs) -> Any:
    """As Go's encoding/json fills a struct: names match without case, repeated objects are merged."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        old = found.get(name.casefold())
        found[name.casefold()] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _folded_first(pairs: Pairs) -> Any:
    """As cJSON looks a name up by default: without case, and the first that fits."""
    return {name.casefold(): value for name, value in reversed(pairs)}


def _exact_then_folded(pairs: Pairs) -> Any:
    """As readers that look for the exact name first and for any other spelling of it next."""
    return _folded(pairs) | dict(pairs)


def _c_strings(pairs: Pairs) -> Any:
    """As readers that keep texts as C strings, which end at a NUL."""
    return {name.split("\0")[0]: value.split("\0")[0] if isinstance(value, str) else value for name, value in pairs}


OBJECTS: dict[str, Callable[[Pairs], Any]] = {
    "last wins": _last,
    "first wins": _first,
    "case folded": _folded,
    "case folded, first wins": _folded_first,
    "exact, else folded": _exact_then_folded,
    "C strings": _c_strings,
}


def _texts(raw: bytes) -> Iterator[tuple[str, str]]:
    """Decode in every way that does not fail."""
    for encoding, errors in [
        ("utf-8", "strict"), ("utf-8", "replace"), ("utf-8", "ignore"), ("utf-8-sig", "strict"), ("latin-1", "strict"),
        ("utf-16", "strict"), ("utf-16-le", "ignore"), ("utf-16-be", "ignore"), ("utf-32", "strict"),
        ("utf-32-le", "ignore"), ("utf-32-be", "ignore"), (json.detect_encoding(raw), "surrogatepass"),
    ]:  # fmt: skip
        try:
            yield f"{encoding} {errors}", raw.decode(encoding, errors)
        except UnicodeDecodeError:
            continue


def _lines(text: str) -> Iterator[tuple[str, str]]:
    yield "whole", text
    yield "until NUL", text.split("\0")[0]
    for line in text.split("\n"):
        yield "line", line
        yield "line, stripped", line.strip()
    for line in re.split("\r\n|\r|\n", text):
        yield "universal newlines", line


def _values(text: str, objects: Callable[[Pairs], Any]) -> Iterator[Any]:
    """Parse as leniently as the standard library can: control characters, constants, value after value."""
    decoder = json.JSONDecoder(object_pairs_hook=objects, strict=False)
    position = 0
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return
        yield value
        position += len(text[position:]) - len(text[position:].lstrip())


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):  # encoded twice
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _tools(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for element in value:
            yield from _tools(element)
        return
    message = _object(value)
    if message.get("method") != "tools/call":
        return
    name = _object(message.get("params")).get("name")
    if isinstance(name, str):
        yield name
        yield name.encode("utf-8", "ignore").decode().replace("\ufffd", "")  # what is no character is dropped


def tools_called(raw: bytes) -> dict[str, str]:
    """Return the tools that some reader would call, and one such reader for each."""
    called: dict[str, str] = {}
    for encoding, text in dict(_texts(raw)).items():
        for split, line in set(_lines(text)):
            for name, objects in OBJECTS.items():
                for value in _values(line, objects):
                    for tool in _tools(value):
                        called.setdefault(tool, f"{encoding}; {split}; {name}")
    return called


class Node:
    """The same question to a real `node` process, which answers until `close`."""

    def __init__(self) -> None:
        program = shutil.which("node")
        if program is None:
            raise FileNotFoundError("node is not installed")
        script = str(Path(__file__).with_name("dialects.js"))
        self._process = subprocess.Popen([program, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tools_called(self, raw: bytes) -> set[str]:
        """Return the tools that some JavaScript reader would call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(base64.b64encode(raw) + b"\n")
        self._process.stdin.flush()
        return set(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
