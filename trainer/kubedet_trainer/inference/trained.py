"""A trained detector from where it lies, ready to be measured or used, without a run around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.config import Recipe
from kubedet_trainer.data import arrays, loader, opening, proposals, splits
from kubedet_trainer.data.prepare import LocalDataset, prepare_dataset
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.dist import World
from kubedet_trainer.errors import InvalidInput, MissingInput, UsageError
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.evaluate import evaluate
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.recipes import published_files
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training.checkpoint import MANIFEST_FILE, Checkpointer, Located, Origin, parse_manifest
from kubedet_trainer.weights.fetch import fetch_weights
from kubedet_trainer.weights.load import load_weights


@dataclass(frozen=True, kw_only=True)
class TrainedDetector:
    """A model in evaluation mode and what is needed to feed it."""

    model: Detector
    recipe: Recipe
    classes: tuple[str, ...]
    """Names of the labels 1, 2, ..."""
    device: torch.device

    @property
    def pipeline(self) -> Pipeline:
        """How its images are prepared."""
        return Pipeline.of_validation(self.recipe.data)


def locate_checkpoint(settings: CheckpointSettings) -> Located:
    """The checkpoint at the URI itself, else the newest below it.

    Raises:
        MissingInput: there is none.
        InvalidInput: its manifest is none.
    """
    store = open_store(settings.uri, settings.credentials)
    suffix = f"/{MANIFEST_FILE}"
    key = MANIFEST_FILE
    if not store.exists(MANIFEST_FILE):
        found = [item.key for item in store.list("step-") if item.key.endswith(suffix)]
        if not found:
            raise MissingInput(
                f"checkpoint: nothing at {settings.uri}, must be a checkpoint or contain checkpoints; "
                "weights alone need `--weights` and the recipe's name"
            )
        key = max(found)
    uri = f"{store.uri}/{key}".removesuffix(suffix)
    if (manifest := parse_manifest(store.get_bytes(key))) is None:
        raise InvalidInput(f"checkpoint: {uri}{suffix} is not a manifest, must be one that a training wrote")
    return Located(uri=uri, manifest=manifest)


def load_checkpoint(settings: CheckpointSettings, *, scratch: Path, device: torch.device) -> TrainedDetector:
    """The detector of one checkpoint, or of the newest one below `settings.uri`.

    Raises:
        MissingInput: there is no checkpoint, or it is damaged.
        InvalidInput: it was made by a recipe that is unknown here.
        CredentialsRefused, StorageUnreachable: from the object store.
    """
    located = locate_checkpoint(settings)
    manifest = located.manifest
    recipe = _restore_recipe(manifest.recipe)
    origin = Origin(recipe=manifest.recipe, classes=manifest.classes)
    file = scratch / "detector.pt"
    scratch.mkdir(parents=True, exist_ok=True)
    Checkpointer(settings, origin=origin, scratch=scratch).download(located, target=file)
    try:
        return _build(recipe, classes=tuple(manifest.classes), file=file, device=device)
    finally:
        file.unlink()


def load_published(
    recipe_name: str,
    *,
    uri: str,
    mirror: str | None = None,
    classes: tuple[str, ...],
    cache: Path,
    device: torch.device,
) -> TrainedDetector:
    """The detector of a recipe with the weights at `uri` (file, s3, http or https), say the zoo's own.

    Args:
        recipe_name: whose weights they are.
        uri: of the weights.
        mirror: base address that published weights are fetched from instead of their publisher's.
        classes: names of the labels 1, 2, ... that it was trained for.
        cache: folder that keeps what was downloaded.
        device: where the detector will compute.

    Raises:
        InvalidInput: the weights are not those of the recipe's model with these classes.
        MissingInput, CredentialsRefused, StorageUnreachable: the weights cannot be had.
    """
    recipe = recipes.read_recipe(recipe_name)
    file = fetch_weights(published_files.addresses(uri, mirror=mirror), cache=cache)
    return _build(recipe, classes=classes, file=file, device=device)


def choose_device(name: str) -> torch.device:
    """The device called ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.

    Raises:
        UsageError: there is no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device: got 'cuda', but torch sees no GPU, must be cpu here")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def read_classes(dataset: DatasetSettings, *, directory: Path) -> tuple[str, ...]:
    """The categories of the validation split, in the file's order: the labels 1, 2, ...

    Raises:
        TrainerError: the data set is not there, or its annotations break a rule.
    """
    local = prepare_dataset(dataset, directory / contract.DATASET_DIRECTORY)
    return arrays.load_annotations(_val(local), cache=directory / contract.CACHE_DIRECTORY).classes


def _val(local: LocalDataset) -> LocalSplit:
    if local.val is None:
        raise InvalidInput("dataset.validate: got false, must be true to evaluate")
    return local.val


def measure(detector: TrainedDetector, *, dataset: DatasetSettings, directory: Path) -> dict[str, float]:
    """COCO's figures of `detector` on the validation split, in percent.

    Args:
        detector: what to measure.
        dataset: its validation split is used.
        directory: where a remote data set is downloaded to, and annotations are cached.

    Raises:
        InvalidInput: the data set has other classes than the detector, or breaks a rule.
        TrainerError: the data set is not there.
    """
    local = prepare_dataset(dataset, directory / contract.DATASET_DIRECTORY)
    val = _val(local)
    annotations = arrays.load_annotations(
        val,
        cache=directory / contract.CACHE_DIRECTORY,
        reading=opening.reading(detector.recipe.data, classes=detector.classes, truth=True),
    )
    arrays.require_images(annotations, val.images)
    split = splits.validation_split(
        annotations,
        folder=val.images,
        proposals=proposals.open_proposals(
            dataset,
            split="val",
            annotations=annotations,
            slots=detector.recipe.data.num_proposals,
            directory=directory,
        ),
    )
    result = evaluate(
        detector.model,
        loader.val_loader(
            split,
            pipeline=detector.pipeline,
            world=World(device=detector.device),
            num_workers=detector.recipe.data.num_workers,
        ),
        num_images=len(split),
        scorer=build_scorer(
            detector.recipe.evaluation_kind,
            truth=annotations.truth,
            max_detections=config.detection_limit(detector.recipe),
        ),
        normalisation=detector.recipe.data.normalisation,
        device=detector.device,
    )
    assert result is not None  # one process is rank 0, and nothing stops it
    return result.metrics


def _build(recipe: Recipe, *, classes: tuple[str, ...], file: Path, device: torch.device) -> TrainedDetector:
    model = recipe.model.build(num_classes=len(classes) + 1)
    load_weights(model, file=file)
    return TrainedDetector(model=model.to(device).eval(), recipe=recipe, classes=classes, device=device)


def _restore_recipe(document: Mapping[str, Any]) -> Recipe:
    """The recipe that a manifest describes: the one of that name, with all its fields set again."""
    recipe = recipes.read_recipe(document["name"])
    known = dict(_leaves(config.recipe_to_dict(recipe)))
    changed = {path: text for path, text in _leaves(document) if known.get(path) != text}
    return config.apply_overrides(recipe, changed)


def _leaves(document: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text, as overrides are written, of every field."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ",".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value).lower() if isinstance(value, bool | None) else str(value)
