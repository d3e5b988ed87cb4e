"""Markers, the folder of shared facts and data, and guards against tests that leak."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no failure.
hypothesis.settings.register_profile("any-machine", deadline=None)
if "CI" not in os.environ:  # there hypothesis has a profile of its own
    hypothesis.settings.load_profile("any-machine")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and of the test cluster beside the project."""
    if not SHARED.is_dir():
        reason = f"{SHARED} is absent: it holds the photographs and the test cluster"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


@pytest.fixture(autouse=True)
def _no_leaked_environment() -> Iterator[None]:
    """Fail a test that leaves an environment variable behind for the next one."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    changed -= {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}  # pytest's own; torch's, on an import
    changed -= {"_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"}  # torch's, at its first compiled kernel
    changed -= {"CRC32C_SW_MODE"}  # tensorboardX's, on an import
    assert not changed, f"the test is leaking environment variables: {sorted(changed)}"
