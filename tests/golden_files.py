"""Numbers of the 2019 code and facts of its page; `tests/golden/README.md` says what each file holds."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden"
_STATE_DICTS = FOLDER / "state_dicts"


def read_unit(topic: str) -> dict[str, Any]:
    """Inputs and results of one function of the 2019 code: ``coder``, ``assigner``, ``voc_ap``, ..."""
    content: dict[str, dict[str, Any]] = json.loads((FOLDER / "numbers" / "unit.json").read_text())
    return content[topic]


def read_inputs() -> Mapping[str, np.ndarray]:
    """The images: ``img0``, ``img1`` and ``photo`` (H, W, BGR) uint8, and each resized as the zoo did."""
    return read_numbers("inputs")


@functools.cache
def read_numbers(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of one ``.npz`` file, each read when it is asked for."""
    content: Mapping[str, np.ndarray] = np.load(FOLDER / "numbers" / f"{name}.npz")
    return content


def read_page(name: str) -> dict[str, Any]:
    """What the zoo's page reports: ``model_zoo`` (a record for each recipe) or ``comparison``."""
    content: dict[str, Any] = json.loads((FOLDER / "page" / f"{name}.json").read_text())
    return content


def list_state_dicts() -> list[str]:
    """The architectures whose parameters are listed, each a recipe's name without style and schedule."""
    return sorted(path.stem for path in _STATE_DICTS.glob("*.txt"))


def read_state_dict(architecture: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a published checkpoint by the names of its parameters."""
    lines = (_STATE_DICTS / f"{architecture}.txt").read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return {key: tuple(int(side) for side in re.findall(r"\d+", shape)) for key, shape in pairs}
