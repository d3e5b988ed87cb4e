"""Published weights in: of a whole detector or of a backbone alone, checked by hash, never run as code."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
import urllib3
from torch import Tensor, nn

from kubedet_trainer import storage
from kubedet_trainer.errors import InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import StoreCredentials

_BACKBONE = "backbone."
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
"""The habit of torchvision and OpenMMLab: the SHA-256 of ``resnet50-0676ba61.pth`` starts with 0676ba61."""
_CLASSIFIER = ("fc.weight", "fc.bias")
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_RETRY = urllib3.Retry(total=5, backoff_factor=0.5, backoff_max=8, status_forcelist=(429, 500, 502, 503, 504))

_log = logging.getLogger(__name__)


def fetch_weights(
    uri: str, *, sha256: str | None, cache: Path, credentials: StoreCredentials | None = None
) -> Path:
    """The file at `uri` (s3, file, https or http), downloaded into `cache` once, its hash checked.

    Without `sha256` the digits in the file's name are taken, if it has any.

    Raises:
        InvalidInput: the URI is malformed, or the hash is another.
        MissingInput, CredentialsRefused, StorageUnreachable: as `storage.Store` does.
    """
    name = PurePosixPath(urlsplit(uri).path).name
    target = cache / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-{name}"
    in_name = _HASH_IN_NAME.search(name)
    expected = (sha256 or (in_name[1] if in_name else "")).lower()
    if not target.exists():
        if urlsplit(uri).scheme in ("http", "https"):
            _download(uri, target=target)
        else:
            storage.fetch(uri, target=target, credentials=credentials)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        target.unlink()
        raise InvalidInput(
            f"pretrained: {uri} has SHA-256 {found}, must be {expected}; correct sha256 or the file"
        )
    return target


def load_weights(model: nn.Module, *, file: Path) -> None:
    """Load a whole detector's weights into `model`, or a classifier's into its backbone.

    Every parameter of what is loaded must be in the file with its shape, and nothing else may be, but for the
    classifier's last layer and counters of batches. A prefix ``module.`` is dropped.

    Raises:
        InvalidInput: the file holds other things than tensors, or other tensors than these.
    """
    found = _read_tensors(file)
    wanted = model.state_dict()
    is_backbone = not found.keys() & wanted.keys()
    if is_backbone:
        found = {f"{_BACKBONE}{name}": value for name, value in found.items() if name not in _CLASSIFIER}
        wanted = {name: value for name, value in wanted.items() if name.startswith(_BACKBONE)}
    problems = [*_differences(found, wanted)]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InvalidInput(f"pretrained: {file.name} does not fit the model: {shown}")
    model.load_state_dict(found, strict=False)
    _log.info("loaded %d tensors of %s from %s", len(found), "a backbone" if is_backbone else "a model", file)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    def counts(name: str) -> bool:
        return not name.endswith("num_batches_tracked")

    return [
        *(f"missing {name}" for name in filter(counts, wanted.keys() - found.keys())),
        *(f"unexpected {name}" for name in filter(counts, found.keys() - wanted.keys())),
        *(
            f"{name} is {tuple(found[name].shape)}, must be {tuple(wanted[name].shape)}"
            for name in wanted.keys() & found.keys()
            if found[name].shape != wanted[name].shape
        ),
    ]


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        document: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InvalidInput(
            f"pretrained: {file} is not a PyTorch file of tensors alone, and nothing else is loaded"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if not isinstance(document, Mapping) or not all(isinstance(value, Tensor) for value in document.values()):
        raise InvalidInput(f"pretrained: {file} must hold a state dict: names to tensors")
    return {name.removeprefix("module."): value for name, value in document.items()}


def _download(url: str, *, target: Path) -> None:
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRY) as pool:
        try:
            response = pool.request("GET", url, preload_content=False)
            if response.status != 200:
                raise MissingInput(
                    f"pretrained: {url} answers {response.status}; check it, or give pretrained.storageUri"
                )
            with storage.replacing(target) as file:
                for chunk in response.stream(1 << 20):
                    file.write(chunk)
        except urllib3.exceptions.HTTPError as error:
            raise StorageUnreachable(
                f"pretrained: {url}: no answer ({type(error).__name__}); check the network, or give "
                "pretrained.storageUri an address inside it"
            ) from error
