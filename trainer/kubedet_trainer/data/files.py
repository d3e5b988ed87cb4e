"""Opens what a data set names: regular files only, inside their folder. Imports no torch."""

from __future__ import annotations

import codecs
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path

from kubedet_trainer.errors import InvalidInput, MissingInput

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
"""How an absolute path of Windows begins."""


class NotRegular(OSError):
    """What a path names is a device, a pipe, a socket or a folder."""

    def __init__(self, file: Path | str) -> None:
        super().__init__(0, "is not a regular file", str(file))


def open_regular(file: Path | str) -> FileIO:
    """Open a regular file to read its bytes; never waits, as opening a pipe would.

    Raises:
        NotRegular: `file` is something else.
        OSError: it cannot be opened; a name that no file can have counts as one that is absent.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or characters that the file system cannot hold
        raise FileNotFoundError(2, f"no file can have this name ({error})", str(file)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular(file)
    return FileIO(descriptor, "rb")


def read_regular(file: Path | str) -> bytes:
    """The bytes of a regular file; raises as `open_regular` does."""
    with open_regular(file) as content:
        return content.readall()


def require_regular(file: Path, *, kind: str) -> os.stat_result:
    """The state of a file that must be there.

    Args:
        file: what must be a regular file.
        kind: what it is to the user, ``annotation file``.

    Raises:
        MissingInput: there is none.
        InvalidInput: it is a device, a pipe, a socket or a folder.
    """
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise MissingInput(f"{_shown(file)}: no such {kind}") from error
    if not stat.S_ISREG(state.st_mode):
        raise InvalidInput(f"{_shown(file)}: is not a regular file, must be the {kind}")
    return state


def decode_text(text: bytes) -> str:
    """Text in UTF-8, or in UTF-16 where its byte order mark says so: PowerShell writes lists in that.

    Raises:
        UnicodeDecodeError: it is in neither.
    """
    is_wide = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return text.decode("utf-16" if is_wide else "utf-8-sig")


def listed_names(text: bytes) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty, without the white space around it.

    Only line feeds end a line. `str.splitlines` also splits at characters that names of files may have.

    Raises:
        UnicodeDecodeError: as of `decode_text`.
    """
    lines = decode_text(text).split("\n")
    return ((number, name) for number, line in enumerate(lines, start=1) if (name := line.strip(" \t\r")))


def describe_alike(file: Path) -> str:
    """Which file was perhaps meant by one that is absent, as the end of a message; empty without any.

    Names that differ in case, in the suffix or in how Unicode composes a letter are hard to tell apart.
    """
    try:
        names = _alike(file.parent, file.parent.stat().st_mtime_ns)
    except (OSError, ValueError):
        return ""
    found = names.get(_normalised(file.name)) or names.get(_normalised(file.stem))
    if found is None:
        return ""
    if found == file.name:
        return "; it is a link to what is not there"
    is_composed = unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", file.name)
    shown = f"{found!a}, whose letters are composed otherwise" if is_composed else repr(found)
    return f"; the folder has {shown}"


@lru_cache(maxsize=4)
def _alike(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder by what they are compared by; read once, since many may be absent."""
    names = sorted(os.listdir(folder), reverse=True)
    stems = {_normalised(os.path.splitext(name)[0]): name for name in names}
    return stems | {_normalised(name): name for name in names}


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def inside(name: str) -> str | None:
    """Why the relative path `name` of a data set's file cannot be used; None where it can.

    A path must stay inside the folder that it is relative to, and be text that a file system holds.
    """
    if not name or "\0" in name:
        return "must be a path without NUL characters" if name else "must not be empty"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode text"
    if name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/"):
        return "must be a path relative to the folder of the images, and inside it"
    return None


def _shown(file: Path) -> str:
    return str(file).encode("utf-8", "replace").decode().replace("\0", "\\0")
