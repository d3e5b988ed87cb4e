"""Every job and every zoo in the documentation is one that the operator would take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import doc_commands
import markdown
from builders import merge
from kubedet_operator.api import validation
from kubedet_operator.children.children import build_children
from kubedet_operator.decision.zoo.facts import parse_zoo
from kubedet_operator.local.places import resolve_paths
from kubedet_operator.settings import OperatorSettings

LEAST = {
    "apiVersion": "kubedet.dev/v1alpha1",
    "kind": "DetectionJob",
    "metadata": {"name": "fragment"},
    "spec": {"recipe": "faster_rcnn_r50_fpn_1x", "dataset": {"storageUri": "synthetic://shapes"}},
}
"""What a fragment of a job lacks."""


def _blocks() -> Iterator[Any]:
    for page in markdown.read_pages():
        for number, block in enumerate(page.blocks):
            if block.language == "yaml":
                yield pytest.param(page, block, id=f"{page.name}-{number}")


@pytest.mark.parametrize(("page", "block"), list(_blocks()))
def test_yaml_is_a_valid_job_or_a_file_of_a_command(page: markdown.Page, block: markdown.Block) -> None:
    documents = [document for document in yaml.safe_load_all(block.text) if document]
    others = []
    for document in documents:
        if document.get("kind") == "ModelZoo":
            assert parse_zoo(document).violations == ()
        elif document.get("kind") == "DetectionJob":
            is_local = any(f"kubedet run {block.file}" in other.commands for other in page.blocks)
            _check({**document, "spec": resolve_paths(document["spec"])} if is_local else document)
        elif set(document) == {"spec"}:
            _check(merge(LEAST, document))
        else:
            others.append(document)
    if others and not block.text.startswith(tuple(doc_commands.NOT_VALIDATED)):
        commands = [command for other in page.blocks for command in other.commands]
        assert block.file is not None
        taken = block.file.partition("/")[0]  # a command may take the file's folder
        assert any(taken in command for command in commands), f"no command of the page takes {taken}"


def _check(document: dict[str, Any]) -> None:
    job = validation.load_job(document)
    assert list(build_children(job, attempt=0, settings=OperatorSettings()))
