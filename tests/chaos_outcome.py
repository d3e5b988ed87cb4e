"""What a job of the chaos matrix has left in the object store."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from chaos_world import BUCKET, World


@dataclass(frozen=True)
class Outcome:
    """What a training has left."""

    weights: Mapping[int, str]
    """A hash of the model's state by the iteration of each checkpoint."""
    figures: Any
    """The metrics of the row."""


def read_outcome(world: World, job: str, status: Mapping[str, Any]) -> Outcome:
    """What a job with `status` has left; each state must be the one that its manifest names."""
    weights = {}
    for iteration in list_committed(world, job):
        folder = f"{job}/step-{iteration:08d}"
        manifest = json.loads(read_object(world, f"{folder}/manifest.json"))
        content = read_object(world, f"{folder}/{manifest.get('stateFile', 'state.pt')}")
        assert hashlib.sha256(content).hexdigest() == manifest["sha256"], folder
        weights[iteration] = _fingerprint(content)
    return Outcome(weights, status["results"]["metrics"])


def _fingerprint(content: bytes) -> str:
    model = torch.load(io.BytesIO(content), weights_only=True)["model"]
    digest = hashlib.sha256()
    for name, tensor in sorted(model.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def list_committed(world: World, job: str) -> list[int]:
    """The iterations of a job's checkpoints."""
    found = world.store.list_objects(BUCKET, prefix=f"{job}/step-", recursive=True)
    names = (item.object_name.split("/") for item in found)
    return sorted(int(name[1].removeprefix("step-")) for name in names if name[-1] == "manifest.json")


def read_object(world: World, key: str) -> bytes:
    """The content of an object."""
    answer = world.store.get_object(BUCKET, key)
    try:
        return bytes(answer.read())
    finally:
        answer.close()
        answer.release_conn()
