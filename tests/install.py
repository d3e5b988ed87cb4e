"""The documents of manifests/install.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

INSTALL = Path(__file__).resolve().parent.parent / "manifests" / "install.yaml"


def read(*kinds: str) -> list[dict[str, Any]]:
    """The documents of these kinds, or all of them."""
    documents = yaml.safe_load_all(INSTALL.read_text())
    return [document for document in documents if not kinds or document["kind"] in kinds]
