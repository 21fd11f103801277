"""Rules about the files themselves: size, docstrings, `__all__`, no trace of the machine, loadable on any platform."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, modules, tree

MOST_LINES = 300
REASON = re.compile(r"although it is long|long because", re.IGNORECASE)
POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "uvloop")
# Names that `os` and `signal` lack on Windows and that are tempting at module level.
POSIX_NAMES = {
    "os": (
        "fchmod",
        "fork",
        "geteuid",
        "getpgid",
        "getuid",
        "killpg",
        "mkfifo",
        "register_at_fork",
        "setsid",
        "waitid",
    ),
    "signal": ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "pthread_sigmask", "setitimer"),
}

# What says where a checkout was made, which differs for everyone, or sends a reader to where they cannot go.
FOREIGN = {
    "a package registry's host": r"registry\.(npmjs|yarnpkg)\.(org|com)|\b(test\.)?pypi\.org|pythonhosted\.org",
    "a path of one machine": r"/work/\w+|/root/\w+|" + re.escape(str(ROOT)) + r"\b",
    "a note to ourselves": r"\b(TODO|FIXME|XXX)\b",
    "a document that is not here": r"\b(CONTRACT|TRANSPARENCY|LEDGER|STYLE|BROKER)\.md\b|\bshared/(design|seeds)\b",
    "an issue number in place of a reason": r"\b(issue|ticket|bug) #\d+",
}
SUFFIXES = ["css", "html", "ini", "js", "json", "lock", "md", "py", "sh", "toml", "txt", "yaml", "yml"]
TEXT = {"", *(f".{suffix}" for suffix in SUFFIXES)}


@cache
def project_files() -> tuple[Path, ...]:
    """Return the files that are or would be tracked; outside a git checkout every file but the hidden and made ones."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = {ROOT / name for name in listing.stdout.decode().split("\0") if name}
    else:
        names = {p for p in ROOT.rglob("*") if not {".venv", ".cache", "node_modules", "__pycache__"} & set(p.parts)}
    return tuple(sorted(p for p in names if p.is_file() and p.suffix in TEXT and p.name != "package-lock.json"))


def docstring(module: str) -> str:
    """Return a module's docstring, or nothing."""
    return ast.get_docstring(tree(module)) or ""


@pytest.mark.parametrize("module", modules())
def test_a_long_module_says_why(module: str) -> None:
    """Above 300 lines the docstring says `long because ...` or `although it is long`."""
    lines = len(modules()[module].read_text(encoding="utf-8").splitlines())

    assert lines <= MOST_LINES or REASON.search(docstring(module)), f"{module} has {lines} lines and gives no reason"


@pytest.mark.parametrize("module", modules())
def test_a_module_introduces_itself(module: str) -> None:
    """It has a docstring, and a public one that defines anything says what is public."""
    private = any(name.startswith("_") for name in module.split("."))

    assert docstring(module), f"{module} has no docstring"
    assert private or "__all__" in (names := defined(module)) or not names, f"{module} has no __all__"


def defined(module: str) -> set[str]:
    """Return what a module defines at its top level for others: `__all__` and names without an underscore."""
    names: set[str] = set()
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if name == "__all__" or not name.startswith("_")}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_checkout_could_have_been_made_anywhere(what: str) -> None:
    """No file names a registry, this machine or something its reader cannot see."""
    pattern = re.compile(FOREIGN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in project_files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]

    assert not found, f"{what}:\n" + "\n".join(found)


def test_the_npm_lock_names_no_host() -> None:
    """`npm ci` asks whatever registry the user has configured."""
    assert '"resolved"' not in (ROOT / "tests" / "gates" / "package-lock.json").read_text()


def test_every_requirement_is_pinned_by_hash() -> None:
    """And the lock names no index."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]

    assert len(requirements) > 20
    assert [line for line in requirements if "--hash=sha256:" not in line or "://" in line] == []


def test_every_module_loads_where_posix_modules_are_missing() -> None:
    """A stand-in for Windows: the POSIX-only modules and names are gone before the first of ours is imported."""
    code = f"""
import asyncio, importlib, multiprocessing, os, pathlib, shutil, signal, sqlite3, subprocess, sys, tarfile, tempfile
import anyio, anyio._backends._asyncio, anyio.to_process, cryptography, msgspec, rich.console, ulid, yaml
for name in {POSIX_ONLY!r}:
    sys.modules[name] = None
for module, names in {POSIX_NAMES!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
for name in {[m for m in modules() if not m.endswith("__main__")]!r}:
    importlib.import_module(name)
"""
    hidden = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )

    assert hidden.returncode == 0, hidden.stderr


def test_the_architecture_names_only_what_exists() -> None:
    """ARCHITECTURE.md is a map: every module it names is there, and every folder of the package is on it."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = text.split("```")[1]
    named = set(re.findall(r"\b([a-z_]+\.py)\b", text))
    there = {path.name for path in modules().values()} | {path.name for path in (ROOT / "tests").rglob("*.py")}

    assert named <= there
    folders = {path.parent.name for path in modules().values()} - {"mcp_audit"}
    assert all(f"{folder}/" in drawn for folder in folders)
