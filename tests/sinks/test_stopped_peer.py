"""A peer that was stopped with the append lock in its hand: nobody waits for it for ever, and nothing is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import QuickFiles
from ledgers import STAMP, Sink, appended, crash, exchange, start, types, verdict

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.locks import Locks

STORAGES = [pytest.param("jsonl", id="jsonl"), pytest.param("sqlite", id="sqlite")]

HOLD = """
import sys
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.stamp import Stamp
sink = open_ledger(LedgerSettings(sys.argv[1], sys.argv[2], b"0123456789abcdef0123456789abcdef"), Stamp())
sink._enter(wait=True)
print("locked", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="platform: no SIGSTOP")


@contextmanager
def stopped_peer(sink: Sink, storage: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock and does not run."""
    command = [sys.executable, "-c", HOLD, sink.path, storage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "locked\n"
            os.kill(peer.pid, signal.SIGSTOP)
            yield peer
        finally:
            peer.kill()


@pytest.mark.parametrize("storage", STORAGES)
def test_the_end_does_not_wait_for_ever(tmp_path: Path, storage: str) -> None:
    """The closing line is missing, which is said, and the next start settles the run as a crash."""
    sink = start(tmp_path, storage, busy_timeout_ms=50)
    appended(sink, exchange())
    refusal = r"locked|another process has held its lock for 0\.05 s"
    with stopped_peer(sink, storage), pytest.raises(LedgerUnavailable, match=refusal):
        sink.close()
    start(tmp_path, storage).close()

    assert types(sink.path) == ["open", "exchange", "open", "open", "close"]
    assert verdict(sink.path) == "INTACT"


@pytest.mark.parametrize("storage", STORAGES)
def test_appends_block_and_come_back(tmp_path: Path, storage: str) -> None:
    """Everything that waits gives up in time; when the peer is gone a retry succeeds, without a restart."""
    sink = start(tmp_path, storage, busy_timeout_ms=50)
    with stopped_peer(sink, storage):
        assert sink.append([exchange("not now")], wait=False) is None
        for attempt in (lambda: sink.append([exchange("lost")]), sink.recover, sink.checkpoint):
            with pytest.raises(LedgerUnavailable):
                attempt()
        assert sink.blocked
    sink.recover()
    appended(sink, exchange("kept"))
    sink.close()

    assert types(sink.path) == ["open", "open", "exchange", "close"]
    assert verdict(sink.path) == "INTACT"


def test_a_checkpoint_that_cannot_be_named_blocks_nothing(tmp_path: Path) -> None:
    """Its lines are safe; only the note has to wait."""
    peers: list[Locks] = []

    class Meddling(QuickFiles):
        """A peer takes the lock while a checkpoint is synced."""

        def sync(self, fd: int) -> None:
            if peers:
                peers[0].acquire(wait=True)

    sink = start(tmp_path, files=Meddling(), busy_timeout_ms=50)
    appended(sink, exchange())
    peers.append(Locks(Files(), sink.path))
    with pytest.raises(LedgerUnavailable, match="no checkpoint: another process has held its lock"):
        sink.checkpoint()
    assert not sink.blocked
    peers.pop().close()
    assert sink.checkpoint() is not None
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    """Each look is a little later than the one before; at the end of the time the answer is no."""
    holder = Locks(Files(), str(tmp_path / "audit.jsonl"))
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 12:
            holder.release()

    locks = Locks(Files(), str(tmp_path / "audit.jsonl"), sleep=nap)
    assert holder.acquire(wait=False)

    assert locks.acquire_within(60.0)
    assert naps == sorted(naps)
    assert naps[0] < 0.001
    assert max(naps) <= 0.02
    assert not holder.acquire_within(0.0)
    locks.close()
    holder.close()


def test_a_crashed_peer_holds_nothing(tmp_path: Path) -> None:
    """The kernel lets go of its lock."""
    sink = start(tmp_path, busy_timeout_ms=50)
    other = start(tmp_path)
    other._locks.acquire(wait=True)
    crash(other)

    assert appended(sink, exchange()) == [2]
    sink.close()
    assert STAMP.id()
