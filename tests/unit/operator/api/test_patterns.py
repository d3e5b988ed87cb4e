"""Users' regular expressions are RE2's, and can stop nobody."""

from __future__ import annotations

import pytest

from kubedet_operator.api import patterns


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        ("Xid (48|79)", "NVRM: Xid 79, GPU has fallen off the bus", True),
        ("Xid (48|79)", "NVRM: Xid 13", False),
        ("(?i)ecc error", "Uncorrectable ECC error", True),
        ("^ECC", "an ECC error", False),
    ],
)
def test_a_pattern_is_found_anywhere(pattern: str, text: str, is_found: bool) -> None:
    assert patterns.is_valid(pattern)
    assert patterns.find(pattern, text) is is_found


def test_a_pattern_that_would_never_end_elsewhere_ends_here() -> None:
    assert not patterns.find("((a|a)*(a+)+)+b$", "a" * 1000)


@pytest.mark.parametrize("pattern", ["(a", "a**", "*a", r"\1", "(?=a)"])
def test_what_cannot_be_searched_for_is_refused(pattern: str) -> None:
    assert not patterns.is_valid(pattern)
