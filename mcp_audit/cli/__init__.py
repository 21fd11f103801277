"""The command line: find the command, load only its module, turn errors into one sentence and an exit code.

Each command is a module of this package with `add_arguments(parser)` and `run(args) -> int`; its docstring is the
help text and ends with an example.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from mcp_audit.errors import McpAuditError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "run": "put the proxy between a client and a server (the default command)",
    "demo": "record a real session against a bundled server, then verify it",
    "verify": "decide whether a ledger is intact",
    "prove": "make a proof of one entry that convinces without the ledger",
    "check-proof": "check such a proof with nothing but the log's public key",
    "query": "filtered entries, newest first",
    "show": "one entry in full",
    "tail": "the newest entries; -f follows",
    "stats": "counts, error rates and latencies per tool",
    "export": "write the ledger's lines elsewhere, byte for byte",
    "config": "check, show or explain the configuration",
    "keygen": "make a log key, a secret or a client token",
}
_SINGLE_DASH = re.compile(r"-[a-z][a-z-]+(=|$)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 bad, 2 usage or input, 3 cannot decide, 4 see verify."""
    _fill_closed_streams()
    arguments = _two_dashes(sys.argv[1:] if argv is None else list(argv))
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    if arguments and arguments[0] in COMMANDS:
        name, arguments = arguments[0], arguments[1:]
    elif arguments and arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    elif arguments and not arguments[0].startswith("-"):
        return _unknown(arguments[0])
    else:
        name = "run"
    module = importlib.import_module(f"mcp_audit.cli.{name.replace('-', '_')}")
    parser = _Parser(
        prog=f"mcp-audit {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    upstream: list[str] | None = None
    if name == "run" and "--" in arguments:
        end = arguments.index("--")
        arguments, upstream = arguments[:end], arguments[end + 1 :]
    try:
        args = parser.parse_args(arguments, argparse.Namespace(argv=upstream))
        code: int = module.run(args)
        sys.stdout.flush()
    except McpAuditError as error:
        print(f"mcp-audit: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain again while it flushes at exit.
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _fill_closed_streams() -> None:
    """Put the null device where we were started without a standard stream.

    The next file opened would get its number: the client would read the ledger's descriptor, or write to it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd, inheritable=False)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with a guess at what was meant, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            import difflib

            word = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: {message}{hint}; see `{self.prog} --help`\n")


def _two_dashes(arguments: list[str]) -> list[str]:
    """Let long options take one dash or two, as Go's did; what follows `--` is the upstream's."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return ["-" + word if _SINGLE_DASH.match(word) else word for word in arguments[:end]] + arguments[end:]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: mcp-audit [OPTIONS] -- SERVER ARG...", "       mcp-audit COMMAND [OPTIONS]", ""]
    lines += [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    lines += ["", "example: mcp-audit -- npx -y @modelcontextprotocol/server-filesystem /tmp"]
    lines += ["each command explains itself: mcp-audit COMMAND --help"]
    return "\n".join(lines)


def _unknown(word: str) -> int:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    print(
        f"mcp-audit: there is no command {word!r}{hint} Commands: {', '.join(COMMANDS)}. "
        f"To wrap a server, put it after two dashes: mcp-audit -- {word} ...",
        file=sys.stderr,
    )
    return 2
