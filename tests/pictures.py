"""Make the pictures of the README from what the program prints: `python tests/pictures.py` rewrites docs/demo.svg."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
_COLUMNS = 118


def demo_output() -> str:
    """Run `mcp-audit demo` on a terminal of its own and return what it prints, escape sequences included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mcp_audit", "demo", "--dir", f"{folder}/d"]
        ours, theirs = pty.openpty()
        # As where it is installed: the program is on PATH, and the demo calls it by its name.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        env = os.environ | {"COLUMNS": str(_COLUMNS), "TERM": "xterm-256color", "PATH": path}
        env.pop("NO_COLOR", None)
        # Not stderr: whether a progress bar shows there depends on how busy the machine is.
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=env)
        os.close(theirs)
        said = bytearray()
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break  # Linux says EIO when the last writer of a terminal is gone
            if not chunk:
                break
            said += chunk
        os.close(ours)
        assert process.wait() == 0, said.decode()
        return said.decode().replace("\r\n", "\n").replace(f"{folder}/d", "/tmp/demo")


def demo_svg() -> str:
    """Return the demo as a picture that needs no font from anywhere."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ mcp-audit demo", style="bold"))
    console.print(Text.from_ansi(demo_output()))
    svg = console.export_svg(title="mcp-audit demo", theme=MONOKAI, unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def words(svg: str) -> str:
    """Return the text of a picture without what differs from run to run: names of logs, digits, hashes, widths."""
    text = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", text).replace("&#160;", " ")
    text = re.sub(r"\S+/audit-[0-9a-f]{8}", "LOG", text)
    return re.sub(r"\s+", " ", re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", text))


if __name__ == "__main__":
    (DOCS / "demo.svg").write_text(demo_svg())
