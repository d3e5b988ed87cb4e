"""Named arrays kept as files and mapped into memory, so that every process on a node shares the same pages.

What is mapped read-only lies in the page cache once, however many ranks and loader workers use it, and never
becomes private by being looked at, as Python objects do when their reference counts change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.storage.files import make_folder

Arrays = Mapping[str, NDArray[Any]]


def cached_arrays(folder: Path, make: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """The arrays in `folder`, mapped; made and stored there first when the folder is absent.

    If several processes ask together, one makes them and the others wait. The folder appears whole
    or not at all.
    """
    make_folder(folder, lambda scratch: _write(scratch, make()))
    return map_arrays(folder)


def map_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays that `cached_arrays` stored in `folder`, by name, mapped read-only."""
    return {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}


def _write(folder: Path, arrays: Arrays) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
