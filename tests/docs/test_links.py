"""Every link between the repository's pages leads somewhere."""

from __future__ import annotations

import pytest

import markdown

PAGES = markdown.read_pages()


def test_there_are_pages() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "docs/README.md", "docs/runbooks/README.md", "charts/kubedet/README.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: markdown.Page) -> None:
    broken = [link for link in page.links if not _exists(page, link)]
    assert broken == []


def _exists(page: markdown.Page, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (markdown.ROOT / page.name).parent / path if path else markdown.ROOT / page.name
    if not target.exists():
        return False
    return (
        not anchor or anchor in markdown.read_page(str(target.resolve().relative_to(markdown.ROOT))).anchors
    )


def test_every_page_of_the_docs_can_be_reached_from_the_index() -> None:
    reached: set[str] = set()
    waiting = ["docs/README.md"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for link in markdown.read_page(name).links:
            target = ((markdown.ROOT / name).parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists():
                waiting.append(str(target.relative_to(markdown.ROOT)))
    assert {page.name for page in PAGES if page.name.startswith("docs/")} - reached == set()


@pytest.mark.parametrize(
    ("link", "exists"),
    [
        ("install.md", True),
        ("install.md#with-helm", True),
        ("../../charts", True),
        ("instal.md", False),
        ("install.md#with-helms", False),
        ("#images", False),
    ],
)
def test_broken_links_are_noticed(link: str, exists: bool) -> None:
    assert _exists(markdown.read_page("docs/administrators/upgrade.md"), link) == exists
