"""CONTRIBUTING lists the fakes that the tests have, and no others."""

from __future__ import annotations

import re

import markdown

TESTS = markdown.ROOT / "tests"
PAGE = markdown.read_page("CONTRIBUTING.md").text
TABLE = re.search(r"^\| fake \| replaces .*\n\|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
FAKE = re.compile(r"^class (_?(?:Fake|Stub|Simulat|Server|Chaos|Frozen)\w*)", re.MULTILINE)


def test_every_named_file_of_a_fake_exists() -> None:
    assert TABLE is not None
    names = re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", TABLE[1])
    assert len(names) > 10
    assert [name for name in names if not list(TESTS.rglob(name))] == []


def test_every_named_class_of_a_fake_exists() -> None:
    assert TABLE is not None
    classes = {
        name for path in TESTS.rglob("*.py") for name in re.findall(r"^class (\w+)", path.read_text(), re.M)
    }
    assert set(re.findall(r"`([A-Z]\w+)`", TABLE[1])) - classes == set()


def test_every_fake_is_listed_by_its_file_or_its_class() -> None:
    assert TABLE is not None
    unlisted = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in FAKE.findall(path.read_text())
        if f"`{name}`" not in TABLE[1] and path.name not in TABLE[1]
    ]
    assert unlisted == []
