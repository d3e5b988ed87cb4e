"""A checkpoint as the zoo publishes it: weights alone, in a file with its date and its hash in the name."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kubedet_trainer import config
from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, TrainerError
from kubedet_trainer.inference import trained
from kubedet_trainer.recipes import own
from kubedet_trainer.reports.zoo import files
from kubedet_trainer.reports.zoo.document import Weights
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.files import replacing
from kubedet_trainer.storage.store import Store
from kubedet_trainer.training.source import read_source

_HASH_DIGITS = 8
_CHUNK_BYTES = 1 << 20


def publish_checkpoint(
    uri: str, *, output: Path, cache: Path, credentials: StoreCredentials | None = None
) -> Path:
    """Write the weights of a checkpoint to the folder `output` and return the file.

    Its name is ``RECIPE_DATE-HASH.pth``: the UTC date of the checkpoint, and the first eight digits of the
    file's SHA-256. It holds ``state_dict``, the tensors alone under the zoo's names, and ``meta``, what they
    are of. Anything that loads published weights can load it.

    Args:
        uri: of one checkpoint, or of the place of several, of which the newest counts.
        output: is made where it is not there.
        cache: folder for what is downloaded.
        credentials: of the object store.

    Raises:
        MissingInput: there is no checkpoint, or it is damaged.
        InvalidInput: it was made by a recipe that is unknown here.
    """
    source = read_source(uri, cache=cache, credentials=credentials)
    if (manifest := source.manifest) is None:
        raise InvalidInput(
            f"checkpoint: {uri} is a file of weights, must be a checkpoint or contain checkpoints"
        )
    recipe = trained.read_recipe_of(source, given=None)
    detector = trained.build_detector(
        source, recipe=recipe, classes=tuple(manifest.classes), device=torch.device("cpu")
    )
    document = {
        "meta": {
            "kubedet_version": version("kubedet"),
            "job": manifest.job,
            "recipe": config.recipe_to_dict(recipe),
            "CLASSES": list(detector.classes),
            "time": manifest.time,
            "epoch": manifest.epoch,
            "iter": manifest.iteration,
            "metrics": dict(manifest.metrics),
        },
        "state_dict": {name: value.detach() for name, value in detector.model.state_dict().items()},
    }
    content = io.BytesIO()
    torch.save(document, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    date = manifest.time[:10].replace("-", "")
    target = output / f"{own.short_name(detector.recipe.name)}_{date}-{digest[:_HASH_DIGITS]}.pth"
    with replacing(target) as file:
        file.write(content.getbuffer())
    return target


def publish_zoo(
    target: Store, *, cache: Path, credentials_for: Callable[[str], StoreCredentials]
) -> Iterator[tuple[str, Weights | TrainerError]]:
    """Put the weights of every row that has its results next to the page of a zoo, and link them there.

    Of repeats, the first counts. What is there already for the same checkpoint stays. In the end the page is
    written again.

    Args:
        target: the place of the page.
        cache: folder for what is downloaded.
        credentials_for: gives those for the store at a URI.

    Yields:
        Each recipe with its file, or with why there is none.

    Raises:
        MissingInput, InvalidInput: there is no table at `target`.
        CredentialsRefused, StorageUnreachable: from the store of the page.
    """
    table = files.read_document(target)
    for row in table["rows"]:
        uri = next((run["checkpoint"] for run in row["runs"] if "checkpoint" in run), None)
        if uri is None:
            continue
        known = row.get("weights")
        if known and known["checkpoint"] == uri and target.exists(known["file"]):
            yield row["recipe"], Weights(**known)
            continue
        try:
            weights = _publish_to(target, uri, cache=cache, credentials=credentials_for(uri))
        except (InvalidInput, MissingInput, CredentialsRefused) as error:
            yield row["recipe"], error
            continue
        row["weights"] = asdict(weights)
        yield row["recipe"], weights
    files.write_document(table, target=target)


def _publish_to(target: Store, uri: str, *, cache: Path, credentials: StoreCredentials) -> Weights:
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as folder:
        file = publish_checkpoint(uri, output=Path(folder), cache=cache, credentials=credentials)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            content.seek(0)
            with target.writing(file.name) as sink:
                while chunk := content.read(_CHUNK_BYTES):
                    sink.write(chunk)
        return Weights(file=file.name, sha256=digest, bytes=file.stat().st_size, checkpoint=uri)
