"""Every command of the documentation is run, on real parts, or stands in a table with the reason why not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import dataset_builders
import doc_commands
import markdown
import s3
from builders import merge

CHART = (
    "helm upgrade --install kubedet charts/kubedet --namespace kubedet --create-namespace "
    "--take-ownership --reset-values"
)
NOTHING = "helm uninstall kubedet --namespace kubedet --ignore-not-found --wait"
ESTABLISHED = """\
kubectl wait --for=jsonpath='{.status.acceptedNames.kind}'=DetectionJob crd/detectionjobs.kubedet.dev
kubectl wait --for=condition=Established crd/detectionjobs.kubedet.dev"""
SMALL_IMAGES = 4

TABLES: dict[str, Mapping[str, Any]] = {
    "NOT_RUN": doc_commands.NOT_RUN,
    "INSTEAD": doc_commands.INSTEAD,
    "ADDED": doc_commands.ADDED,
    "SAME": doc_commands.SAME,
    "TOLD": doc_commands.TOLD,
}


def _commands() -> Iterator[tuple[str, str]]:
    """Page and command, everywhere."""
    for page in markdown.read_pages():
        for block in page.blocks:
            for command in block.commands:
                yield page.name, command


def _entry(table: Mapping[str, str], command: str) -> str | None:
    """The beginning in the table that the command has."""
    return next((beginning for beginning in table if command.startswith(beginning)), None)


def test_every_page_with_commands_is_played() -> None:
    known = {*doc_commands.CLUSTER_PAGES, *doc_commands.PLAYED_ELSEWHERE}
    known |= {name for names in doc_commands.LOCAL_PAGES for name in names}
    assert {page for page, _ in _commands()} == known


@pytest.mark.parametrize("name", TABLES)
def test_no_table_speaks_of_commands_that_are_gone(name: str) -> None:
    elsewhere = set(doc_commands.PLAYED_ELSEWHERE)
    commands = [command for page, command in _commands() if page not in elsewhere]
    gone = [known for known in TABLES[name] if not any(command.startswith(known) for command in commands)]
    assert gone == []


def test_pages_are_played_elsewhere_indeed() -> None:
    for test, sign in doc_commands.PLAYED_ELSEWHERE.values():
        assert sign in (markdown.ROOT / test).read_text()


@pytest.mark.parametrize("names", doc_commands.LOCAL_PAGES, ids=lambda names: names[-1])
def test_commands_without_a_cluster(names: tuple[str, ...], desk: Any) -> None:
    _make_parts(desk.folder / "parts")
    for name in names:
        _play(markdown.read_page(name), desk)


@pytest.mark.cluster
@pytest.mark.parametrize("name", doc_commands.CLUSTER_PAGES)
def test_commands_at_a_cluster(
    name: str, cluster_desk: Any, run_operator: Any, tmp_path_factory: Any
) -> None:
    needs = doc_commands.CLUSTER_PAGES[name]
    cluster_desk.type(NOTHING if needs == "nothing" else f"{CHART}\n{ESTABLISHED}")
    with contextlib.ExitStack() as stack:
        if needs == "operator":
            stack.enter_context(run_operator(cluster_desk))
            stack.callback(cluster_desk.type, "kubectl delete dj --all --namespace kubedet")
            cluster_desk.type("kubectl config set-context --current --namespace=kubedet")
        variables = {}
        if name == "docs/administrators/s3.md":
            server = stack.enter_context(s3.run_s3_server(tmp_path_factory.mktemp("s3")))
            variables = _fill(server, cluster_desk.folder)
        if name in doc_commands.BEGINNINGS:
            page, file = doc_commands.BEGINNINGS[name]
            _write(_find(page, file), cluster_desk.folder)
            waiting = "kubectl wait --for=condition=Complete dj --all --timeout=60s"
            cluster_desk.type(f"kubectl apply -f {file}\n{waiting}")
        _play(markdown.read_page(name), cluster_desk, **variables)


def _play(page: markdown.Page, desk: Any, **variables: str) -> None:
    """Write the page's files and type its commands, block by block, in the order of the page."""
    for block in page.blocks:
        if block.file:
            _write(block, desk.folder)
        script = [_adapt(command) for command in block.commands]
        printed = desk.type("\n".join(line for line in script if line), **variables) if any(script) else ""
        for command in block.commands:
            if told := _entry(doc_commands.TOLD, command):
                assert doc_commands.TOLD[told] in printed


def _adapt(command: str) -> str:
    """What is typed for a command; nothing if it is not run."""
    if _entry(doc_commands.NOT_RUN, command) or _entry(doc_commands.SAME, command):
        return ""
    if known := _entry(doc_commands.INSTEAD, command):
        command = doc_commands.INSTEAD[known] + command.removeprefix(known)
    if known := _entry(doc_commands.ADDED, command):
        command = f"{command} {doc_commands.ADDED[known]}"
    return command


def _find(page: str, file: str) -> markdown.Block:
    return next(block for block in markdown.read_page(page).blocks if block.file == file)


def _write(block: markdown.Block, folder: Path) -> None:
    """Write the file of a block; a job that should end gets what has the fake nodes end its worker."""
    assert block.file is not None
    text = block.text
    if ending := doc_commands.ENDINGS.get(block.file):
        template = {"spec": {"worker": {"template": {"metadata": {"annotations": ending}}}}}
        text = yaml.safe_dump(merge(yaml.safe_load(text), template))
    (folder / block.file).write_text(text)


def _make_parts(folder: Path) -> None:
    """A data set of the layout that the page about own data speaks of."""
    for split in ("train", "val"):
        images = [dataset_builders.image_record(number) for number in range(1, SMALL_IMAGES + 1)]
        for image in images:
            dataset_builders.make_image(folder / "images" / split, image["file_name"], seed=image["id"])
        annotations = [
            dataset_builders.annotation_record(image["id"], image=image["id"], segmentation=[])
            for image in images
        ]
        dataset_builders.write_annotations(folder / f"{split}.json", images=images, annotations=annotations)


def _fill(server: s3.S3Server, folder: Path) -> dict[str, str]:
    """Put a small COCO into the bucket that the page speaks of; the variables of the way there."""
    _make_parts(folder / "parts")
    bucket = server.make_bucket("datasets")
    for path in sorted((folder / "parts").rglob("*.*")):
        name = path.relative_to(folder / "parts").as_posix()
        if name.endswith(".json"):
            name = f"annotations/instances_{path.stem}2017.json"
        else:
            name = f"{path.parent.name}2017/{path.name}"
        server.client().fput_object(bucket, f"coco2017/{name}", str(path))
    keys = {"S3_ACCESS_KEY": s3.ACCESS_KEY, "S3_SECRET_KEY": s3.SECRET_KEY}
    return {"S3_ENDPOINT": server.endpoint, **keys}
