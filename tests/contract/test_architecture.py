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
