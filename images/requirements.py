"""Write what an image installs, a file a layer, so that a layer lasts until a line of its own file changes.

``requirements.py HALF FOLDER`` reads pyproject.toml and constraints.txt of the working directory and writes
into FOLDER: ``packages.txt``, what the half needs beside torch; ``torch-constraints.txt``, the pins of torch
and all it brings; ``constraints.txt``, all pins but those of tools. It needs the standard library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = {"operator": ("operator",), "trainer": ("trainer", "tensorboard")}
"""Half to the extras of pyproject.toml that its image installs."""

TORCH = re.compile(r"torch(vision)?\b")


def read_sections(text: str) -> dict[str, str]:
    """The parts of a constraints file: the name that a ``# [name]`` line gives -> the pins below it."""
    found = re.split(r"^# \[(\w+)\].*\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def write_requirements(half: str, folder: Path) -> None:
    """Write the three files for the ``operator`` or the ``trainer``."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    pins = read_sections(Path("constraints.txt").read_text())
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(item for name in EXTRAS[half] for item in extras[name])]
    packages = [requirement for requirement in wanted if not TORCH.match(requirement)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packages.txt").write_text("\n".join(packages) + "\n")
    (folder / "torch-constraints.txt").write_text(pins["torch"])
    (folder / "constraints.txt").write_text(pins["torch"] + pins["run"])


if __name__ == "__main__":
    write_requirements(sys.argv[1], Path(sys.argv[2]))
