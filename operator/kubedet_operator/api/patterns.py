"""Regular expressions that users write, searched in time linear in the text, whatever they are.

Python's own engine backtracks: ``(a|a)*b`` from one user would stop the operator for everybody. This one
walks all alternatives side by side. It takes what log lines need: literals, ``.``, ``[...]``, ``\\d \\w \\s``
and their opposites, groups, ``|``, ``* + ?``, ``^`` and ``$``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

UNSUPPORTED = r"[{}]|[(][?]|[\[]:|[\\][^\W_dwsDWS]|[*+?][*+?]"
"""What RE2 knows and this does not; the API server refuses it by the same expression."""

_Test = Callable[[str], bool]


def is_valid(pattern: str) -> bool:
    """Whether `find` can search for `pattern`."""
    if re.search(UNSUPPORTED, pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError):
        return False
    return True


def find(pattern: str, text: str) -> bool:
    """Whether a valid `pattern` is found anywhere in `text`."""
    start = _compile(pattern)
    current: set[int] = set()
    nodes = start.nodes
    for position, character in enumerate((*text, "")):
        _follow(nodes, start.first, current, at_start=position == 0, at_end=position == len(text))
        if start.last in current:
            return True
        reached = {
            nodes[number].next[0] for number in current if (test := nodes[number].test) and test(character)
        }
        current = set()
        for number in reached:
            _follow(nodes, number, current, at_start=False, at_end=position + 1 >= len(text))
    return False


@dataclass
class _Node:
    """A state: consumes a character that passes `test`, or none and stands for all of `next`."""

    test: _Test | None = None
    anchor: str = ""
    next: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Machine:
    nodes: list[_Node]
    first: int
    last: int


def _follow(nodes: list[_Node], number: int, found: set[int], *, at_start: bool, at_end: bool) -> None:
    """Add to `found` every state that `number` leads to without a character."""
    pending = [number]
    while pending:
        number = pending.pop()
        node = nodes[number]
        passes = {"": True, "^": at_start, "$": at_end}[node.anchor]
        if number in found or not passes:
            continue
        found.add(number)
        if node.test is None:
            pending += node.next


@lru_cache(maxsize=256)
def _compile(pattern: str) -> _Machine:
    return _Parser(pattern).parse()


_CLASSES: dict[str, _Test] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}


class _Parser:
    """Thompson's construction, by recursive descent over a pattern that `re` has found well formed."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0
        self._nodes: list[_Node] = []

    def parse(self) -> _Machine:
        first, last = self._alternatives()
        return _Machine(self._nodes, first, last)

    def _add(self, test: _Test | None = None, anchor: str = "") -> int:
        self._nodes.append(_Node(test, anchor))
        return len(self._nodes) - 1

    def _join(self, source: int, target: int) -> None:
        self._nodes[source].next.append(target)

    def _peek(self) -> str:
        return self._pattern[self._place] if self._place < len(self._pattern) else ""

    def _take(self) -> str:
        self._place += 1
        return self._pattern[self._place - 1]

    def _alternatives(self) -> tuple[int, int]:
        first, last = self._add(), self._add()
        while True:
            start, end = self._sequence()
            self._join(first, start)
            self._join(end, last)
            if self._peek() != "|":
                return first, last
            self._take()

    def _sequence(self) -> tuple[int, int]:
        first = last = self._add()
        while self._peek() not in ("", "|", ")"):
            start, end = self._repeated()
            self._join(last, start)
            last = end
        return first, last

    def _repeated(self) -> tuple[int, int]:
        start, end = self._atom()
        if self._peek() not in ("*", "+", "?"):
            return start, end
        mark = self._take()
        first, last = self._add(), self._add()
        self._join(first, start)
        self._join(end, last)
        if mark in "*?":
            self._join(first, last)
        if mark in "*+":
            self._join(end, start)
        return first, last

    def _atom(self) -> tuple[int, int]:
        character = self._take()
        if character == "(":
            inner = self._alternatives()
            self._take()
            return inner
        if character in "^$":
            return self._single(anchor=character)
        if character == ".":
            return self._single(test=lambda found: found not in ("", "\n"))
        if character == "[":
            return self._single(test=self._set())
        if character == "\\":
            return self._single(test=_escaped(self._take()))
        return self._single(test=lambda found: found == character)

    def _single(self, test: _Test | None = None, anchor: str = "") -> tuple[int, int]:
        first, last = self._add(test, anchor), self._add()
        self._join(first, last)
        return first, last

    def _set(self) -> _Test:
        negated = self._peek() == "^"
        if negated:
            self._take()
        tests: list[_Test] = []
        while self._peek() != "]" or not tests:
            low = self._take()
            if low == "\\":
                tests.append(_escaped(self._take()))
            elif self._peek() == "-" and self._pattern[self._place + 1] != "]":
                self._take()
                high = self._take()
                high = self._take() if high == "\\" else high
                tests.append(lambda found, low=low, high=high: low <= found <= high)  # type: ignore[misc]
            else:
                tests.append(lambda found, low=low: found == low)  # type: ignore[misc]
        self._take()
        return lambda found: found != "" and any(test(found) for test in tests) != negated


def _escaped(character: str) -> _Test:
    known = _CLASSES.get(character.lower())
    if known is None:
        return lambda found: found == character
    if character.islower():
        return known
    return lambda found: found != "" and not known(found)
