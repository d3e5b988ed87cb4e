"""What version 0.1.0 has left behind, and its source where the history of the repository has it.

`tests/golden/README.md` says how the files were made.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "v0.1.0"
COMMIT = "a68bd38af88b1ce64272302f09c0c58f7d23c404"
"""The first state of the repository with all parts of a release: programs, chart, pages."""


def read_cluster() -> dict[str, list[dict[str, Any]]]:
    """The objects that its operator left in a cluster, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for item in json.loads((FOLDER / "cluster.json").read_text()):
        found.setdefault(item["kind"], []).append(item)
    return found


def read_definition() -> str:
    """Its CRD."""
    return gzip.decompress((FOLDER / "crd.yaml.gz").read_bytes()).decode()


def unpack_checkpoints(folder: Path) -> Path:
    """Copy the checkpoints that its trainer saved to `folder`; returns the folder of the run."""
    target = folder / "checkpoints"
    for packed in (FOLDER / "checkpoints").rglob("*.gz"):
        file = target / packed.relative_to(FOLDER / "checkpoints").with_suffix("")
        file.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(packed) as content, file.open("wb") as output:
            shutil.copyfileobj(content, output)
    return target


def extract_source(folder: Path) -> Path | None:
    """Write its source to `folder`; None where the history is not there, as in a shallow clone."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "archive", COMMIT, "operator", "trainer"], capture_output=True
    )
    if found.returncode != 0:
        return None
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
