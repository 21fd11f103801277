"""The folder order is the import order: read from the source, so a lazy import counts like any other.

The rules: imports point up ORDER only, there is no cycle, the proxy never imports the broker, the evidence format needs
the standard library alone, and what is pure imports neither clock nor randomness nor the operating system.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from source_tree import ROOT, imports, modules, tree

# From what knows nobody to what knows everybody. A new folder or top-level module needs a place here.
ORDER = (
    "errors",
    "version",
    "config",
    "ledger",
    "wire",
    "middleware",
    "session",
    "sinks",
    "recorder",
    "relay",
    "dashboard",
    "operations",
    "wiring",
    "proxy",
    "serving",
    "bridging",
    "app",
    "clients",
    "export",
    "demo",
    "cli",
    "__main__",
)
BROKER_MAY_IMPORT = ("errors", "version", "config", "ledger", "sinks.jsonl", "broker")
PURE = (
    "mcp_audit.wire",
    "mcp_audit.middleware",
    "mcp_audit.session",
    "mcp_audit.ledger.entry",
    "mcp_audit.ledger.chain",
    "mcp_audit.ledger.batch",
    "mcp_audit.ledger.mac",
    "mcp_audit.ledger.merkle",
    "mcp_audit.ledger.checkpoint",
    "mcp_audit.ledger.segment",
    "mcp_audit.ledger.proving.proof",
)
CLOCKS = {"random", "secrets", "time", "uuid"}
IMPURE = CLOCKS | {"asyncio", "io", "os", "pathlib", "socket", "subprocess", "tempfile", "threading"}


def ours(module: str) -> list[tuple[int, str]]:
    """Return (line, module) of what a module imports from the package, names resolved to the module they live in."""
    found = []
    for line, name in imports(module):
        if name.split(".")[0] == "mcp_audit":
            while name not in modules():
                name = name.rpartition(".")[0]
            found.append((line, name))
    return found


def part(module: str) -> str:
    """Return the top-level folder or module, the unit of ORDER; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def test_every_folder_has_a_place() -> None:
    """A folder nobody placed would escape the rule."""
    parts = {part(module) for module in modules()} - {"", "broker"}

    assert {name for name in parts if not name.startswith("_build")} <= set(ORDER)


@pytest.mark.parametrize("module", [m for m in modules() if part(m) not in ("", "broker")])
def test_imports_point_up_the_order(module: str) -> None:
    """Nobody imports what is built upon it, nor the broker; only its command in `cli` loads that."""
    rank = ORDER.index(part(module))
    allowed = {"", *ORDER[: rank + 1], *(["broker"] if part(module) == "cli" else [])}

    wrong = [f"line {line}: {target}" for line, target in ours(module) if part(target) not in allowed]

    assert not wrong, f"{module} imports against the order: {wrong}"


@pytest.mark.parametrize("module", [m for m in modules() if part(m) == "broker"] or ["mcp_audit"])
def test_the_broker_stands_beside_the_proxy(module: str) -> None:
    """It shares the evidence format and nothing of the relay."""
    allowed = tuple(f"mcp_audit.{name}" for name in BROKER_MAY_IMPORT)

    assert [t for _, t in ours(module) if t != "mcp_audit" and not t.startswith(allowed)] == []


def test_there_is_no_cycle() -> None:
    """Not between folders (the order sees to that), and not inside one."""
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for _, target in ours(module):
            if target != module:
                visit(target)
        done.add(path.pop())

    for module in modules():
        visit(module)


def _is_impure(name: str) -> bool:
    return name.split(".")[0] in IMPURE and name != "io.BytesIO"  # which is memory


@pytest.mark.parametrize("module", [m for m in modules() if any(f"{m}.".startswith(f"{pure}.") for pure in PURE)])
def test_what_is_pure_cannot_reach_the_world(module: str) -> None:
    """No clock, randomness, environment or file: callers pass time and bytes."""
    reached = [f"line {line}: {name}" for line, name in imports(module) if _is_impure(name)]
    builtins = [
        f"line {node.lineno}: {node.func.id}()"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "input", "print")
    ]

    assert reached + builtins == []


@pytest.mark.parametrize("module", [m for m in modules() if part(m) == "ledger"])
def test_the_evidence_format_needs_the_standard_library_only(module: str) -> None:
    """`cryptography` may be imported where a signature is made or checked, never when the module is loaded."""
    foreign = [
        (line, name)
        for line, name in imports(module)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names and top not in ("mcp_audit", "cryptography")
    ]
    eager = [name for node in tree(module).body for _, name in imports(module, node) if is_eager(node, name)]

    assert foreign == []
    assert eager == []


def is_eager(node: ast.stmt, name: str) -> bool:
    """Return whether a top-level statement loads `cryptography` when the module is loaded."""
    inside_code = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return name.split(".")[0] == "cryptography" and not inside_code and not typing_only


def test_an_auditor_can_read_a_ledger_with_nothing_installed() -> None:
    """`mcp_audit.ledger` loads on a bare Python."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mcp_audit.ledger as l; print(len(l.__all__))"

    bare = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)

    assert bare.returncode == 0, bare.stderr
    assert int(bare.stdout) > 0


@pytest.mark.parametrize("module", modules())
def test_peers_of_the_wire_path_stay_off_it(module: str) -> None:
    """The MCP SDK re-encodes messages, and a terminal library belongs to the command line."""
    top = {name.split(".")[0] for _, name in imports(module)}

    assert "mcp" not in top or part(module) == "broker"
    assert "rich" not in top or part(module) == "cli"
