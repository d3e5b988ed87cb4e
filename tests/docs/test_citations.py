"""Every source that a docstring cites is there: the sections and the papers of docs/zoo.md."""

from __future__ import annotations

import re

import pytest

import markdown

HALVES = [markdown.ROOT / "operator", markdown.ROOT / "trainer"]
SOURCES = {
    str(path.relative_to(markdown.ROOT)): " ".join(path.read_text().split())
    for folder in (*HALVES, markdown.ROOT / "tests" / "unit")
    for path in sorted(folder.rglob("*.py"))
}
"""The text of each module by its path, one space between words."""

_PAGE = markdown.read_page("docs/zoo.md").text
_NUMBER = r"(?:\d+(?:\.\d+)*|[A-E]\d?)"
_CITATION = re.compile(
    rf"`docs/zoo\.md`, (?:appendix )?({_NUMBER}(?:(?:, | and | to ){_NUMBER})*)(?=[;,.:) ])"
)
_PAPER = re.compile(r"(?:[A-Z]\w+ (?:et al\.|and [A-Z]\w+)|Girshick), \d{4}[a-z]?")

SECTIONS = set(re.findall(rf"^#+ (?:Appendix )?({_NUMBER})\.? ", _PAGE, re.MULTILINE))
PAPERS = set(re.findall(r"^\| (\w[^|]*, \d{4}[a-z]?) \|", _PAGE, re.MULTILINE))


_FORMULAS = tuple(
    f"trainer/kubedet_trainer/{room}"
    for room in ("data/transforms.py", "evaluation/", "models/", "training/optim.py")
)
_WITHOUT_FORMULAS = {
    "trainer/kubedet_trainer/evaluation/evaluate.py",
    "trainer/kubedet_trainer/evaluation/loss.py",
    "trainer/kubedet_trainer/evaluation/propose.py",
    "trainer/kubedet_trainer/models/compilable.py",
    "trainer/kubedet_trainer/models/detector.py",
    "trainer/kubedet_trainer/models/host.py",
    "trainer/kubedet_trainer/models/options/detectors.py",
    "trainer/kubedet_trainer/models/sheet.py",
}


def _modules_of_formulas() -> list[str]:
    found = {name for name in SOURCES if name.startswith(_FORMULAS) and not name.endswith("__init__.py")}
    return sorted(found - _WITHOUT_FORMULAS)


def _modules_with(pattern: str | re.Pattern[str]) -> list[str]:
    return [name for name, text in SOURCES.items() if re.search(pattern, text)]


@pytest.mark.parametrize("name", _modules_with(r"zoo\.md`"))
def test_every_cited_section_exists(name: str) -> None:
    lists = _CITATION.findall(SOURCES[name])
    assert len(lists) == SOURCES[name].count("zoo.md`"), "must be like `docs/zoo.md`, 4.2"
    assert {number for found in lists for number in re.findall(_NUMBER, found)} <= SECTIONS


@pytest.mark.parametrize("name", _modules_with(_PAPER))
def test_every_cited_paper_is_listed(name: str) -> None:
    assert set(_PAPER.findall(SOURCES[name])) <= PAPERS


def test_every_listed_paper_is_cited() -> None:
    assert {paper for text in SOURCES.values() for paper in _PAPER.findall(text)} == PAPERS


@pytest.mark.parametrize("name", _modules_of_formulas())
def test_every_module_of_formulas_cites_its_source(name: str) -> None:
    assert _CITATION.search(SOURCES[name]) or _PAPER.search(SOURCES[name])
