"""Loads the program once and forks a proxy for each order; run by `launch.Zygote`.

An order comes over a socket, with the two pipes that become the proxy's stdin and stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys

__all__ = ["serve"]

_PRELOAD = """anyio anyio._backends._asyncio anyio.to_thread uvloop cryptography.hazmat.primitives.asymmetric.ed25519
mcp_audit.app mcp_audit.cli.run mcp_audit.config mcp_audit.config.loader mcp_audit.ledger mcp_audit.proxy
mcp_audit.relay.stdio mcp_audit.sinks.jsonl mcp_audit.sinks.sqlite yaml"""


def serve(channel: socket.socket) -> None:
    """The zygote: one order at a time; a child that was forked is the proxy."""
    for name in _PRELOAD.split():
        importlib.import_module(name)
    from mcp_audit.cli import main

    while True:
        order, fds, _, _ = socket.recv_fds(channel, 65536, 2)
        if not order:
            return
        wanted = json.loads(order)
        if "wait" in wanted:
            channel.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(wanted["wait"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            channel.close()
            for target, fd in enumerate(fds):
                os.dup2(fd, target)
                os.close(fd)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.chdir(wanted["cwd"])
            code = 1
            try:
                code = main(wanted["argv"])
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        channel.sendall(b"%d" % pid)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
