"""The files of a zoo's page: read its rows and the reports of its runs, write the page, publish weights."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubedet_trainer import contract
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.reports import files as run_files
from kubedet_trainer.reports import page, shape
from kubedet_trainer.reports.zoo import building, document, markdown, source
from kubedet_trainer.reports.zoo.document import Weights
from kubedet_trainer.storage.store import SMALL_BYTES, Store

OpenStore = Callable[[str], Store]
"""Opens the store at a URI, with the credentials for it."""

_KIND = "ModelZoo"


def read_zoo(file: Path) -> dict[str, Any]:
    """The ModelZoo in `file`: JSON as `kubectl get zoo NAME -o json` prints it, or that with gzip in base64.

    Raises:
        MissingInput: there is no such file.
        InvalidInput: it holds something else.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise MissingInput(f"--zoo: {file}: {error.strerror}, must be the JSON of a {_KIND}") from error
    try:
        text = data if data.lstrip()[:1] == b"{" else _unpack(data)
        zoo = json.loads(text)
    except (ValueError, RecursionError, binascii.Error, OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"--zoo: {file}: must be the JSON of a {_KIND} ({error})") from error
    if not isinstance(zoo, dict) or zoo.get("kind") != _KIND:
        raise InvalidInput(
            f"--zoo: {file}: must be one {_KIND}; write it with `kubectl get zoo NAME -o json`"
        )
    status = zoo.get("status")
    if not isinstance(status, dict) or not status.get("rows"):
        raise InvalidInput(f"--zoo: {file}: status.rows is empty, must have the rows of the table")
    for wrong in shape.misfits(source.Zoo, zoo, partial=False):
        raise InvalidInput(f"--zoo: {file}: {wrong}; write it with `kubectl get zoo NAME -o json`")
    whole: dict[str, Any] = contract.without_none(zoo)
    return whole


def _unpack(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(data, validate=True))) as stream:
        text = stream.read(SMALL_BYTES + 1)
    if len(text) > SMALL_BYTES:
        raise ValueError(f"more than {SMALL_BYTES >> 20} MiB")
    return text


def write_zoo(zoo: Mapping[str, Any], *, target: Store, open_place: OpenStore) -> str:
    """Write the page of a zoo to `target`, and return its address.

    Weights that were published there before stay linked from the rows that they are of.

    Args:
        zoo: the ModelZoo with its status.
        target: where the page goes.
        open_place: opens the places of the runs.

    Raises:
        StorageUnreachable: a store does not answer. What is only missing is told on the page.
    """
    report = building.build_report(
        zoo, read_report=lambda place: run_files.read_report(open_place(place)), known=_known_weights(target)
    )
    return write_document(document.parse(document.dump(report), name=document.DATA_FILE), target=target)


def write_document(table: Mapping[str, Any], *, target: Store) -> str:
    """Write all files of a table to `target`, the page last, and return its address."""
    target.put_bytes(document.DATA_FILE, data=json.dumps(table, indent=1).encode())
    target.put_bytes(document.CSV_FILE, data=document.csv_table(table).encode())
    target.put_bytes(document.MARKDOWN_FILE, data=markdown.render(table, folder=target.uri).encode())
    target.put_bytes(contract.ZOO_PAGE_FILE, data=page.render_zoo(table, folder=target.uri))
    return f"{target.uri}/{contract.ZOO_PAGE_FILE}"


def read_document(target: Store) -> dict[str, Any]:
    """The table whose page is at `target`.

    Raises:
        MissingInput: there is none.
        InvalidInput: what is there is none.
    """
    uri = f"{target.uri}/{document.DATA_FILE}"
    try:
        data = target.get_bytes(document.DATA_FILE)
    except MissingInput as error:
        raise MissingInput(f"{uri}: no such table, must be next to the page of a zoo") from error
    return document.parse(data, name=uri)


def _known_weights(target: Store) -> dict[str, Weights]:
    """URI of a checkpoint to the weights that were published of it at `target`."""
    try:
        table = read_document(target)
        found = [Weights(**row["weights"]) for row in table["rows"] if "weights" in row]
    except (MissingInput, InvalidInput, KeyError, TypeError):
        return {}  # an unusable table is written anew
    return {weights.checkpoint: weights for weights in found}
