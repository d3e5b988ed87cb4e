"""ARCHITECTURE.md names files that exist, and the rooms in the order that the linter enforces."""

from __future__ import annotations

import re
import tomllib

import markdown

PAGE = markdown.read_page("ARCHITECTURE.md")
PATH = re.compile(r"`((?:operator|trainer|manifests|charts|tests|docs)/[\w./-]+)`")
TABLE = re.compile(r"^\| room \| .*\n\| --- .*\n((?:\|.*\n)+)", re.MULTILINE)


def test_every_path_exists() -> None:
    paths = PATH.findall(PAGE.text)
    assert len(paths) > 20
    assert [path for path in paths if not (markdown.ROOT / path).exists()] == []


def test_the_table_of_changes_names_what_its_files_hold() -> None:
    rows = [line for line in PAGE.text.splitlines() if line.startswith("| ") and PATH.search(line)]
    assert len(rows) > 10
    for row in rows:
        paths = [markdown.ROOT / path for path in PATH.findall(row)]
        beside = [path.parent / name for name in re.findall(r"`(\w+[.]py)`", row) for path in paths]
        files = [path for path in (*paths, *beside) if path.is_file()]
        assert {path.name for path in files} >= set(re.findall(r"`(\w+[.]py)`", row)), row
        text = "".join(path.read_text() for path in files)
        assert [name for name in re.findall(r"`(\w+)`", row) if name not in text] == [], row


def test_the_rooms_are_those_of_the_layers_contracts_in_their_order() -> None:
    project = tomllib.loads((markdown.ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    enforced = [
        [set(layer.split(" | ")) for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
    ]
    tables = [
        [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table.splitlines()]
        for table in TABLE.findall(PAGE.text)
    ]
    assert tables == enforced
