"""What happens to archives after a rotation: some go, the others are compressed.

Promise: a file is deleted only if a `prune` line covers it, oldest first, so that an interruption leaves a log without
holes; the caller has that line signed before. Notes stay. Never called with the append lock held: it reads the first
line of each archive.
"""

from __future__ import annotations

import os

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.segment_files import plain_name, segment_files
from mcp_audit.sinks.compress import Compressor
from mcp_audit.sinks.files import Files, open_regular
from mcp_audit.sinks.locks import try_lock
from mcp_audit.sinks.retention import Archive, Retention, SteadyClock, archives
from mcp_audit.sinks.rotation import rotated_at
from mcp_audit.sinks.settings import RotationSettings

__all__ = ["Housekeeping"]


class Housekeeping:
    """Sees to the archives of one log.

    Args:
        origin: the log's name.
        clock: measures age.
    """

    def __init__(
        self, files: Files, log: str, origin: str, settings: RotationSettings, clock: SteadyClock | None = None
    ) -> None:
        self._files = files
        self._log = log
        self._origin = origin
        self._retention = Retention(settings, clock or SteadyClock())
        self._compressor = Compressor(files) if settings.compress == "gzip" else None

    def going(self, pruned: int) -> tuple[list[Archive], str]:
        """Return the archives that are to go and that no `prune` line covers, and the settings that say so.

        Args:
            pruned: the seq below which the `prune` lines so far let everything go.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._retention.is_on:
            return [], ""
        expired, rule = self._retention.expired(self._archives())
        return [archive for archive in expired if archive.end > pruned], rule

    def deletable(self, pruned: int) -> bool:
        """Say whether a file is there that a `prune` line covers."""
        return bool(pruned) and any(archive.end <= pruned for archive in self._archives())

    def delete(self, pruned: int) -> None:
        """Delete what is covered, oldest first; stop at a file that somebody is compressing.

        Raises:
            OSError: one cannot be deleted.
        """
        for archive in self._archives():
            if archive.end > pruned or not self._delete(archive.file.path):
                break
        self._files.sync_directory(os.path.dirname(self._log))

    def compress(self) -> None:
        """Have what is not compressed compressed, in the background.

        Raises:
            OSError: the folder cannot be read, or the last attempt failed.
        """
        if self._compressor is None:
            return
        problem, self._compressor.problem = self._compressor.problem, ""
        self._compressor.wake(
            [
                (archive.file.path, archive.sha256)
                for archive in self._archives()
                if not archive.file.gz and rotated_at(archive.file.path) is not None
            ]
        )
        if problem:
            raise OSError(0, problem)

    def join(self) -> None:
        """Wait until everything is compressed."""
        if self._compressor is not None:
            self._compressor.join()

    def stop(self) -> None:
        """Give up what is under way; the next start goes on."""
        if self._compressor is not None:
            self._compressor.stop()

    def _archives(self) -> list[Archive]:
        return archives(segment_files(self._log, self._origin))

    def _delete(self, path: str) -> bool:
        try:
            fd, _ = open_regular(self._files, path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        except LedgerRefused:
            return False
        try:
            if not try_lock(fd):
                return False
            for name in {path, plain_name(path), plain_name(path) + ".gz"}:
                if os.path.lexists(name):
                    self._files.unlink(name)
        finally:
            self._files.close(fd)
        return True
