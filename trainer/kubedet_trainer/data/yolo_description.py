"""Reads what a ``data.yaml`` says: the classes, the folders of the splits, and the form of the labels.

Imports no torch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kubedet_trainer.data import files
from kubedet_trainer.errors import InvalidInput

BOX_FIELDS = 5
"""Of a line: a class, and x, y, width and height."""

_MOST_YAML_BYTES = 2**24
_MOST_CLASSES = 10_000
_MOST_KEYPOINTS = 10_000
_OTHER_KEYS: Mapping[str, tuple[str, ...]] = {"val": ("validation", "valid")}
"""What tools call a split besides its usual name."""


def read_yaml(file: Path) -> Mapping[str, Any]:
    """The content of a ``data.yaml``; every value is text, so that a class may be called ``no`` or ``1.5``.

    Raises:
        MissingInput: there is none.
        InvalidInput: it is not a mapping in YAML.
    """
    state = files.require_regular(file, kind="data.yaml")
    try:
        if state.st_size > _MOST_YAML_BYTES:
            raise yaml.YAMLError(f"more than {_MOST_YAML_BYTES} bytes")
        content = yaml.load(files.read_regular(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{file}: not YAML ({reason})") from error
    if not isinstance(content, Mapping):
        raise InvalidInput(
            f"{file}: got {type(content).__name__}, must be a mapping with names, train and val"
        )
    return content


def read_classes(file: Path) -> list[str]:
    """The names of the classes 0, 1, ...: ``class_0``, ... as Ultralytics has it, where only ``nc`` is given.

    Raises:
        InvalidInput: ``names`` is neither a list nor a mapping from 0, 1, ... on.
    """
    content = read_yaml(file)
    names = content.get("names")
    if not names and (count := _whole(content.get("nc"), most=_MOST_CLASSES)):
        return [f"class_{number}" for number in range(count)]
    if isinstance(names, Mapping):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidInput(
            f"{file}: names: got {_shown(content.get('names'))}, must name the classes 0, 1, 2, ..."
        )
    found = [name.strip() for name in names]
    for number, name in enumerate(found):
        if not name:
            raise InvalidInput(f"{file}: names: got no name for class {number}, must be text")
        if found.count(name) > 1:
            raise InvalidInput(f"{file}: names: got '{name}' twice, must be different names")
    return found


def read_entries(content: Mapping[str, Any], *, file: Path, split: str) -> list[str]:
    """The folders and lists of images of a split.

    Args:
        content: of `file`.
        file: is named in errors.
        split: ``train``, ``val`` or ``test``.

    Raises:
        InvalidInput: `content` names none.
    """
    given = next((content[key] for key in (split, *_OTHER_KEYS.get(split, ())) if content.get(key)), None)
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        remedy = "; without such images, train with validate: false (--no-val)" if split == "val" else ""
        raise InvalidInput(
            f"{file}: {split}: got {_shown(given)}, must be a folder or a list of images{remedy}"
        )
    return entries


def read_pose_fields(file: Path) -> int | None:
    """How many fields a line with keypoints has; None for a data set without keypoints.

    Raises:
        InvalidInput: ``kpt_shape`` is not the number of keypoints and of the numbers of each.
    """
    shape = read_yaml(file).get("kpt_shape")
    if not shape:
        return None
    numbers = [_whole(number, most=_MOST_KEYPOINTS) for number in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not numbers[0] or numbers[1] not in (2, 3):
        raise InvalidInput(
            f"{file}: kpt_shape: got {_shown(shape)}, must be the number of keypoints, and 2 or 3 for the "
            "numbers of each"
        )
    return BOX_FIELDS + numbers[0] * numbers[1]


def _whole(text: Any, *, most: int) -> int | None:
    """The number from 1 to `most` that `text` is, None for anything else."""
    is_short = isinstance(text, str) and text.isdecimal() and len(text) <= len(str(most))
    return int(text) if is_short and 1 <= int(text) <= most else None


def _shown(value: Any) -> str:
    """A value in a message. Aliases make values of YAML whose whole text takes any amount of memory."""
    if isinstance(value, Mapping):  # numbers as the user wrote them
        value = {int(key) if key.isdecimal() and len(key) < 10 else key: of for key, of in value.items()}
    return f"{reprlib.repr(value):.60}"
