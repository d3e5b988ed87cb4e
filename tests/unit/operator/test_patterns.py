"""Users' regular expressions mean what they mean in Python, and can stop nobody."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubedet_operator.api import patterns

_ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\W", "^", "$", "-", r"\.", "[0-9-]", "[]a]"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map(lambda text: f"({text})")
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(group, st.sampled_from("*+?")).map("".join),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(_ATOMS, _grow, max_leaves=8), st.text("ab1-. ", max_size=8))
def test_a_pattern_is_found_where_python_finds_it(pattern: str, text: str) -> None:
    assert patterns.is_valid(pattern)
    assert patterns.find(pattern, text) == bool(re.search(pattern, text))


def test_a_pattern_that_would_never_end_elsewhere_ends_here() -> None:
    assert not patterns.find("((a|a)*(a+)+)+b$", "a" * 1000)


@pytest.mark.parametrize("pattern", ["a{2}", "(?i)a", r"\bword", "(a", "[[:alpha:]]", "a**", "*a", r"\1"])
def test_what_cannot_be_searched_for_is_refused(pattern: str) -> None:
    assert not patterns.is_valid(pattern)
