"""The files of a report next to the checkpoints of its run, and those made again from its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubedet_trainer import contract
from kubedet_trainer.errors import MissingInput
from kubedet_trainer.reports import document, page, tensorboard
from kubedet_trainer.storage.store import Store

_PICTURES = "pictures"
"""Folder of the pictures that the page embeds."""


def write_report(store: Store, data: bytes, *, pictures: Mapping[str, bytes] | None = None) -> None:
    """Store the data, what is made of them, and the pictures; the data last, which vouch for the rest.

    Args:
        store: next to the checkpoints.
        data: of `document.dump`.
        pictures: JPEGs by name; None for those that are stored already.
    """
    for name, content in (pictures or {}).items():
        store.put_bytes(f"{_PICTURES}/{name}.jpg", data=content)
    _write_derived(store, document.parse(data, name=store.uri), pictures=pictures)
    store.put_bytes(contract.RESULTS_FILE, data=data)


def remake(store: Store) -> str:
    """Make the page and the table again from the data of a run, and return the address of the page.

    Raises:
        MissingInput: there are none.
        InvalidInput: they are no report.
    """
    _write_derived(store, read_report(store), pictures=None)
    return f"{store.uri}/{contract.REPORT_FILE}"


def render(store: Store) -> bytes:
    """The page of the run at `store`.

    Raises:
        MissingInput, InvalidInput: as `remake`.
    """
    read = read_report(store)
    return page.render_run(read, pictures=_read_pictures(store, read))


def read_report(store: Store) -> dict[str, Any]:
    """The report of the run at `store`, as a document.

    Raises:
        MissingInput: there is none.
        InvalidInput: it is no report.
    """
    uri = f"{store.uri}/{contract.RESULTS_FILE}"
    try:
        data = store.get_bytes(contract.RESULTS_FILE)
    except MissingInput as error:
        raise MissingInput(
            f"{uri}: no such report, must be next to the checkpoints of a run; the first evaluation writes it"
        ) from error
    return document.parse(data, name=uri)


def _write_derived(store: Store, read: Mapping[str, Any], *, pictures: Mapping[str, bytes] | None) -> None:
    shown = _read_pictures(store, read) if pictures is None else pictures
    store.put_bytes(document.HISTORY_FILE, data=document.history_table(read).encode())
    if "run" in read and tensorboard.is_installed():
        store.put_bytes(tensorboard.EVENTS_FILE, data=tensorboard.build_events(read))
    store.put_bytes(contract.REPORT_FILE, data=page.render_run(read, pictures=shown))


def _read_pictures(store: Store, read: Mapping[str, Any]) -> dict[str, bytes]:
    """Those of the images that the analysis names, as far as they are there."""
    analysis = read.get("analysis") or {}
    found = {}
    for name in ("best", "worst"):
        for number in range(1, len(analysis.get(f"{name}Images", ())) + 1):
            key = f"{_PICTURES}/{name}-{number}.jpg"
            if store.exists(key):
                found[f"{name}-{number}"] = store.get_bytes(key)
    return found
