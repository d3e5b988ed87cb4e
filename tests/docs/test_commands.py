"""Every command of the documentation runs on real parts, or a table says what replaces it and why."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import dataset_builders
import doc_commands
import markdown
import s3
import worker_processes
from builders import merge

CHART = (
    "helm upgrade --install kubedet charts/kubedet --namespace kubedet --create-namespace "
    "--take-ownership --reset-values"
)
NOTHING = "helm uninstall kubedet --namespace kubedet --ignore-not-found --wait"
NO_SECRET = "kubectl delete secret minio --namespace kubedet --ignore-not-found"
ESTABLISHED = """\
kubectl wait --for=jsonpath='{.status.acceptedNames.kind}'=DetectionJob crd/detectionjobs.kubedet.dev
kubectl wait --for=condition=Established crd/detectionjobs.kubedet.dev"""
OWN_DATA = "docs/users/own-data.md"

TABLES: dict[str, Mapping[str, Any]] = {
    "NOT_RUN": doc_commands.NOT_RUN,
    "INSTEAD": doc_commands.INSTEAD,
    "ADDED": doc_commands.ADDED,
    "SAME": doc_commands.SAME,
    "ROWS": doc_commands.ROWS,
    "PRINTED": doc_commands.PRINTED,
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
    _make_yolo(desk.folder / "yolo")
    for name in names:
        _play(markdown.read_page(name), desk)


def test_the_trees_of_own_data_are_those_that_its_commands_read(tmp_path: Path) -> None:
    _make_parts(tmp_path / "parts")
    _make_yolo(tmp_path / "yolo")
    trees = {text.splitlines()[0]: text for text in _texts(OWN_DATA, "text")}
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files == {*_leaves(trees["parts"]), *_leaves(trees["yolo"])} - {"yolo/data.yaml"}


@pytest.mark.cluster
@pytest.mark.parametrize("name", doc_commands.CLUSTER_PAGES)
def test_commands_at_a_cluster(
    name: str, cluster_desk: Any, run_operator: Any, tmp_path_factory: Any
) -> None:
    needs = doc_commands.CLUSTER_PAGES[name]
    cluster_desk.type(NOTHING if needs == "nothing" else f"{CHART}\n{ESTABLISHED}\n{NO_SECRET}")
    with contextlib.ExitStack() as stack:
        workers = None
        if needs == "operator":
            stack.enter_context(run_operator(cluster_desk))
            stack.callback(cluster_desk.type, "kubectl delete dj --all --namespace kubedet")
            cluster_desk.type("kubectl config set-context --current --namespace=kubedet")
            workers = stack.enter_context(cluster_desk.run_workers())
        variables = {}
        if name == "docs/administrators/s3.md":
            server = stack.enter_context(s3.run_s3_server(tmp_path_factory.mktemp("s3")))
            variables = _fill(server, cluster_desk.folder)
        if name in doc_commands.BEGINNINGS:
            page, file = doc_commands.BEGINNINGS[name]
            _write(_find(page, file), cluster_desk.folder)
            waiting = "kubectl wait --for=condition=Complete dj --all --timeout=180s"
            cluster_desk.type(f"kubectl apply -f {file}\n{waiting}")
        _play(markdown.read_page(name), cluster_desk, workers=workers, **variables)


def _play(
    page: markdown.Page,
    desk: Any,
    *,
    workers: worker_processes.WorkerProcesses | None = None,
    **variables: str,
) -> None:
    """Write the page's files and type its commands, block by block, in the order of the page."""
    printed = ""
    for block in page.blocks:
        if block.file:
            _write(block, desk.folder)
        if block.language == "text" and printed:
            _check_output(block.text, printed.replace(str(desk.folder), doc_commands.HOME))
            printed = ""
        script = [line for command in block.commands if (line := _adapt(command))]
        if script:
            printed = desk.type("\n".join(script), **variables)
        for command in block.commands:
            if known := _entry(doc_commands.PRINTED, command):
                assert doc_commands.PRINTED[known] in printed
            if known := _entry(doc_commands.ROWS, command):
                assert workers is not None
                row = workers.messages[doc_commands.ROWS[known]]["results"]
                assert row["boxAP"] >= 0
                assert json.loads(printed.splitlines()[-1]) == row


def _check_output(shown: str, printed: str) -> None:
    """Every line that a page shows as output was printed; measured figures and column widths may differ."""
    lines = {_shape(line) for line in printed.splitlines()}
    assert [line for line in shown.splitlines() if _shape(line) not in lines] == [], printed


def _shape(line: str) -> str:
    """A line without the widths of its columns, and with N for every number but 0."""
    figures = re.sub(r"\d+[.]\d+|0?[1-9]\d*|0\d+", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"([━─])+", r"\1", figures)).strip()


def _leaves(tree: str) -> Iterator[str]:
    """The paths of the files in the drawing of a tree."""
    above: list[str] = []
    for line in tree.splitlines():
        name = line.lstrip("│├└─ \u00a0")
        drawn = line.removesuffix(name)
        above[len(drawn) // 4 :] = [name]
        if "." in name:
            yield "/".join(above)


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
    """Write the file of a block, with the changes that `doc_commands` has for a job of this file."""
    assert block.file is not None
    text = block.text
    changes: dict[str, Any] = {}
    annotations = doc_commands.ENDINGS.get(block.file)
    if block.file in doc_commands.RUN:
        changes, annotations = doc_commands.RUN[block.file], worker_processes.MARK
    if annotations:
        template = {"worker": {"template": {"metadata": {"annotations": annotations}}}}
        text = yaml.safe_dump(merge(yaml.safe_load(text), {"spec": merge(changes, template)}))
    (folder / block.file).write_text(text)


def _make_parts(folder: Path) -> None:
    """The data set of the page about own data: its annotation file for both splits, and the images in it."""
    (text,) = _texts(OWN_DATA, "json")
    for number, split in enumerate(("train", "val")):
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.json").write_text(text)
        for image in json.loads(text)["images"]:
            size = {"width": image["width"], "height": image["height"]}
            seed = 100 * number + image["id"]  # no picture is in both splits
            dataset_builders.make_image(folder / "images" / split, image["file_name"], seed=seed, **size)


def _make_yolo(folder: Path) -> None:
    """The YOLO data set of the page about own data, without the data.yaml that the page writes."""
    (labels,) = (text for text in _texts(OWN_DATA, "text") if re.fullmatch(r"[\d.\s]+", text))
    for number, split in enumerate(("train", "val")):
        dataset_builders.make_image(folder / "images" / split, "0001.jpg", seed=number)
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "0001.txt").write_text(labels)


def _texts(page: str, language: str) -> Iterator[str]:
    """The blocks of a language in a page."""
    return (block.text for block in markdown.read_page(page).blocks if block.language == language)


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
