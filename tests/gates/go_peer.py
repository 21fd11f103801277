"""Builds the Go verifier and asks it. It lives as long as the tests that ask."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["GoVerifier", "NoGo"]

SOURCE = Path(__file__).with_name("go_verifier") / "main.go"
CACHE = Path(__file__).parent.parent.parent / ".cache" / "go-build"
# Where Debian's package golang-golang-x-mod-dev puts its sources.
GOPATH = "/usr/share/gocode"


class NoGo(Exception):
    """The verifier cannot be built here; the message says what is missing."""


class GoVerifier:
    """A running verifier.

    Raises:
        NoGo: Go or golang.org/x/mod is missing.
    """

    def __init__(self, folder: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise NoGo("Go is not installed (on Debian: golang-go)")
        if not (Path(GOPATH) / "src/golang.org/x/mod/sumdb").is_dir():
            raise NoGo(f"golang.org/x/mod is not in {GOPATH} (on Debian: golang-golang-x-mod-dev)")
        program = folder / "go-verifier"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GO")}
        offline = {"GO111MODULE": "off", "GOPATH": GOPATH, "GOCACHE": str(CACHE), "GOTOOLCHAIN": "local"}
        built = subprocess.run(
            [go, "build", "-o", str(program), str(SOURCE)],
            env={**kept, **offline},
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise AssertionError(f"the verifier does not compile:\n{built.stderr}")
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def note(self, note: str, vkey: str) -> str:
        """Check a signed checkpoint; "ok" or what is wrong."""
        return self._ask(What="note", Data=note.encode(), Vkey=vkey)

    def proof(self, proof: str | bytes, vkey: str) -> str:
        """Check a proof of one entry."""
        return self._ask(What="proof", Data=proof.encode() if isinstance(proof, str) else proof, Vkey=vkey)

    def signature(self, line: bytes, secret: bytes) -> str:
        """Check the `signature` of an exchange line."""
        return self._ask(What="signature", Data=line, Secret=secret.decode())

    def _ask(self, Data: bytes, **question: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        text = json.dumps({**question, "Data": base64.b64encode(Data).decode()})
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().decode().removesuffix("\n")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
