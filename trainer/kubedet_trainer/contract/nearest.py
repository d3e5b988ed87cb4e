"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

_SHORT_LIST = 10


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, the first of equals; None where none is like it."""
    names = list(known)
    close = sorted(get_close_matches(name, names, n=_SHORT_LIST), key=names.index)
    return max(close, key=lambda other: SequenceMatcher(None, other, name).ratio(), default=None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name most like `name`; nothing where none is like it."""
    near = nearest(name, known)
    return f" Did you mean '{near}'?" if near else ""
