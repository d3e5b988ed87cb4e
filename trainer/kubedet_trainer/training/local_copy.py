"""The copy of the newest checkpoint in the work directory, which a restart reads instead of the store's.

There is one file, next to one that is being written. The file says nothing of itself: a restart believes it
only where it has the size and the SHA-256 of a manifest in the store. What fails here costs a later restart a
download, and never a checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kubedet_trainer.storage.store import Sink

_log = logging.getLogger(__name__)


def copy_file(work_directory: Path) -> Path:
    """Where the copy lies in the work directory of a worker."""
    return work_directory / "checkpoint" / "newest.pt"


@contextmanager
def replacing(file: Path | None) -> Iterator[Sink]:
    """What is written within the block becomes the copy at its end. Never raises anything of its own.

    An exception in the block leaves the copy as it was. Where the disk takes no more, there is no copy
    afterwards: the one before would be outdated. None keeps no copy.
    """
    draft = _Draft(file)
    try:
        yield draft
        draft.finish()
    finally:
        draft.discard()


class _Draft:
    """What will become the copy, as long as the disk takes it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._content: IO[bytes] | None = None
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._content = file.with_suffix(".half").open("wb")
            except OSError as error:
                self._give_up(error)

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`, unless the disk has failed before."""
        if self._content is not None:
            try:
                self._content.write(data)
            except OSError as error:
                self._give_up(error)
        return len(data)

    def finish(self) -> None:
        """Put the draft in the place of the copy; it need not survive a loss of power."""
        if self._file is None:
            return
        if self._content is not None:
            try:
                self._content.close()
                Path(self._content.name).replace(self._file)
            except OSError as error:
                self._give_up(error)
        if self._content is None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave no draft behind."""
        if self._content is not None:
            with suppress(OSError):
                self._content.close()
            with suppress(OSError):
                Path(self._content.name).unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        _log.warning("%s: %s; a restart will download the checkpoint", self._file, error.strerror or error)
        self.discard()
        self._content = None
