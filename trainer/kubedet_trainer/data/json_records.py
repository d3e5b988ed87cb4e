"""Reads the records of a large JSON file one at a time, so that its size never matters for memory.

COCO's `instances_train2017.json` is 450 MB; as Python objects it takes several gigabytes, which is more than
many pods have. Each record becomes objects only for the moment in which it is read. The standard library's
C scanner does the parsing, hence the speed of `json.load`.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from kubedet_trainer.data.files import open_regular
from kubedet_trainer.errors import InvalidInput

_CHUNK_CHARACTERS = 4 * 1024 * 1024
"""Large enough that a record cut at a chunk's end, which is scanned twice, costs nothing in comparison."""

_CUT_NUMBER_CHARACTERS = 3
"""The most that the scanner leaves of a number whose end it cannot see: ``e+`` and what should follow."""

_MOST_CHARACTERS = 64 * 1024 * 1024
"""Of one value. The longest outlines that people draw take some hundred thousand."""

_GZIP_START = b"\x1f\x8b"

_NOT_WHITESPACE = re.compile(r"[^ \t\r\n]")
_SEPARATOR = re.compile(r"[ \t\r\n]*([],])[ \t\r\n]*")


class JsonRecord(NamedTuple):
    """One element of an array that is a member of the file's top-level object.

    A tuple because a million are made.
    """

    section: str
    """The member's key, ``annotations``."""
    position: int
    """In that array."""
    value: Any


def read_records(file: Path, *, arrays: Collection[str] = ()) -> Iterator[JsonRecord]:
    """The elements of every array directly below the top-level object of `file`, in the file's order.

    Members that are not arrays are read and left out. The file may be compressed by gzip, and may begin with
    a byte order mark.

    Args:
        file: what to read.
        arrays: members that must be arrays.

    Raises:
        InvalidInput: the file is not JSON, not an object at the top level, nested too deeply, or a member of
            `arrays` is something else.
    """
    with _open(file) as stream:
        scanner = _Scanner(stream, file)
        scanner.expect("{")
        while scanner.peek() != "}":
            section = str(scanner.value())
            scanner.expect(":")
            if (start := scanner.peek()) == "[":
                yield from _read_array(scanner, section)
            elif section in arrays:
                got = "an object" if start == "{" else "a single value"
                raise InvalidInput(f"{file}: {section}: got {got}, must be a list")
            else:
                scanner.value()
            if scanner.expect(",}") == "}":
                break
        else:
            scanner.expect("}")
        if found := scanner.peek():  # a second document: nobody would know that it was left out
            raise scanner.invalid(f"expected the end of the file, found '{found}'")


@contextmanager
def _open(file: Path) -> Iterator[TextIO]:
    """The text of `file`, decompressed, in the encoding that its first bytes show (RFC 8259, 8.1)."""
    with io.BufferedReader(open_regular(file)) as content:
        stream = content
        if content.peek(2).startswith(_GZIP_START):
            stream = io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=content)))
        try:
            start = stream.peek(4)[:4]
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput(f"{file}: not a whole gzip file ({error})") from error
        yield io.TextIOWrapper(stream, encoding=json.detect_encoding(start), newline="")


def _read_array(scanner: _Scanner, section: str) -> Iterator[JsonRecord]:
    scanner.expect("[")
    if scanner.peek() == "]":
        scanner.expect("]")
        return
    index = 0
    while True:
        yield JsonRecord(section, index, scanner.value())
        index += 1
        if scanner.separator() == "]":
            return


class _Scanner:
    """A window of the file's text that moves on as values are taken from it."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self._stream = stream
        self._file = file
        self._text = ""
        self._position = 0
        self._consumed = 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not white space, left in place; empty at the end of the file."""
        while True:
            if found := _NOT_WHITESPACE.search(self._text, self._position):
                self._position = found.start()
                return found.group()
            self._position = len(self._text)
            if not self._refill():
                return ""

    def expect(self, allowed: str) -> str:
        """Take the next character, which must be one of `allowed`."""
        character = self.peek()
        if not character or character not in allowed:
            found = f"'{character}'" if character else "the end of the file"
            raise self.invalid(f"expected one of '{allowed}', found {found}")
        self._position += 1
        return character

    def separator(self) -> str:
        """Take the comma behind a value, or the bracket behind the last one, and white space around it."""
        found = _SEPARATOR.match(self._text, self._position)
        if found is None or found.end() == len(self._text):  # more may follow, or something else
            return self.expect(",]")
        self._position = found.end()
        return found.group(1)

    def value(self) -> Any:
        """Take the next JSON value, whatever it is."""
        if not self._text[self._position : self._position + 1].strip():
            self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if not self._refill():
                    raise self.invalid(error.msg, position=error.pos) from error
                continue
            except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
                reason = "a number that is too long" if isinstance(error, ValueError) else "nested too deeply"
                raise self.invalid(reason) from error
            # A number cut by the window's end may have been taken for a shorter one: "1" of "1.5" or "1e+5".
            if len(self._text) - end < _CUT_NUMBER_CHARACTERS and self._refill():
                continue
            self._position = end
            return value

    def _refill(self) -> bool:
        """Drop what was taken and append the next chunk; False at the end of the file."""
        # A value longer than the window doubles it, so that scanning it again stays linear in its length.
        rest = len(self._text) - self._position
        if rest > _MOST_CHARACTERS:
            raise self.invalid(f"a value of more than {_MOST_CHARACTERS} characters")
        try:
            chunk = self._stream.read(max(_CHUNK_CHARACTERS, rest))
        except UnicodeError as error:
            raise self.invalid(f"not {self._stream.encoding.upper()} text ({error})") from error
        except (OSError, EOFError, zlib.error) as error:
            raise self.invalid(f"not a whole file ({error})") from error
        if not chunk:
            return False
        self._consumed += self._position
        self._text = self._text[self._position :] + chunk
        self._position = 0
        return True

    def invalid(self, reason: str, *, position: int | None = None) -> InvalidInput:
        """The error about what stands at the next character, or at `position` in the window."""
        place = self._consumed + (self._position if position is None else position)
        return InvalidInput(f"{self._file}: not valid JSON at character {place}: {reason}")
