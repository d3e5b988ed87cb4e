"""Regular expressions that users write: RE2, as in CEL, whose time is linear in the text whatever they are.

Python's own engine backtracks: ``(a|a)*b`` from one user would stop the operator for everybody.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # on standard error, in addition to ours


def is_valid(pattern: str) -> bool:
    """Whether `find` can search for `pattern`."""
    try:
        _compile(pattern)
    except re2.error:
        return False
    return True


def find(pattern: str, text: str) -> bool:
    """Whether a valid `pattern` is found anywhere in `text`."""
    return _compile(pattern).search(text) is not None


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> Any:
    return re2.compile(pattern, _OPTIONS)
