"""Reads the proposal files of 2019, pickles, without letting them run anything (`docs/zoo.md`, 1.4).

A pickle is a program: it may name any function of any module and call it. Here no name reaches the function
it stands for. The few that NumPy's float arrays consist of are answered by stand-ins of this module, which
only take bytes apart; every other name is refused. NumPy's own unpickling would not do, as it believes what a
file says about the memory behind an array. Imports no torch.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.files import open_regular
from kubedet_trainer.errors import InvalidInput

_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}

_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
"""Instructions that name an entry of the memo, a table as long as its highest entry."""

_MOST_EXPANSION = 16
"""Bytes of arrays for a byte of the file: text of protocol 0 is longer than what it says."""

_REMEDY = "a pickle can run code; `kubedet propose` writes files that cannot"


def read_float_arrays(file: Path) -> list[NDArray[np.floating[Any]]]:
    """The float arrays of a pickled list, as Python 2 or 3 and any NumPy wrote them with protocol 0 to 4.

    Raises:
        InvalidInput: the file names anything else, or is no such list.
    """
    try:
        with io.BufferedReader(open_regular(file)) as content:
            _require_modest(content.fileno())
            value = _Unpickler(content, encoding="latin1").load()
    except _RefusedName as error:
        raise InvalidInput(
            f"{file}: refused, it names {error}, must be only float arrays; {_REMEDY}"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise InvalidInput(f"{file}: is not a pickle of float arrays ({error})") from error
    if not isinstance(value, list):
        raise InvalidInput(f"{file}: got {_kind(value)}, must be a list of float arrays")
    for index, item in enumerate(value):
        if not isinstance(item, _Array) or item.values is None:
            raise InvalidInput(f"{file}: [{index}]: got {_kind(item)}, must be a float array")
    # An array that is named a million times would be copied as often.
    if sum(item.values.nbytes for item in value) > _MOST_EXPANSION * file.stat().st_size:
        raise InvalidInput(f"{file}: refused, it repeats its arrays; {_REMEDY}")
    return [item.values for item in value]


def _require_modest(descriptor: int) -> None:
    """Look at every instruction of a pickle without following any.

    Raises:
        ValueError: one would take memory that the file does not account for, or is cut.
    """
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        for count, (name, argument) in enumerate(_instructions(data)):
            if name in _MEMO and not 0 <= argument <= count:
                raise ValueError(f"entry {argument} of the memo, of which {count} can be in use")
            if name == "FRAME" and argument > len(data):
                raise ValueError(f"a frame of {argument} bytes in a file of {len(data)}")


def _instructions(data: Any) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction; `pickletools.genops` itself takes no text of Python 2."""
    name = ""
    while name != "STOP":
        code = data.read(1).decode("latin1")
        if code not in _INSTRUCTIONS:
            raise ValueError(f"{code!r} is no instruction")
        name, argument = _INSTRUCTIONS[code].name, _INSTRUCTIONS[code].arg
        if name == "STRING":
            yield name, data.readline()
        else:
            yield name, None if argument is None else argument.reader(data)


class _RefusedName(Exception):
    """A name that no float array needs."""


class _Float:
    """Stands for `numpy.dtype`: a number of 4 or 8 bytes whose byte order its state gives."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in ("f4", "f8"):
            raise _RefusedName(f"numbers of type {str(code)!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">"):
            raise _RefusedName(f"the byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array under construction; its state are version, shape, type, column order and bytes."""

    values: NDArray[np.floating[Any]] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, number, is_column_major, content = state
        if not isinstance(number, _Float):
            raise _RefusedName(_kind(number))
        data = content.encode("latin1") if isinstance(content, str) else content
        values = np.frombuffer(data, number.dtype)
        self.values = values.reshape(shape, order="F" if is_column_major else "C")


class _ArrayType:
    """Stands for `numpy.ndarray`, which is only named."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes as text with protocol 2; only that one encoding keeps them."""
    if encoding != "latin1":
        raise _RefusedName(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Python 3 asks for these with protocol 2: the content of an empty array."""
    return b""


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Float,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise _RefusedName(f"{module}.{name}")
        return _STAND_INS[module, name]


def _kind(value: object) -> str:
    return type(value).__name__.lstrip("_").lower()
