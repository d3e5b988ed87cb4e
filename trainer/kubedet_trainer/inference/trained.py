"""A trained detector from where it lies, ready to be measured or used, without a run around it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.config import Recipe
from kubedet_trainer.data import arrays, loader, opening, proposals, splits
from kubedet_trainer.data.prepare import LocalDataset, prepare_dataset
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.dist import World
from kubedet_trainer.errors import InvalidInput, UsageError
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.evaluate import evaluate
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.recipes import published_files
from kubedet_trainer.settings import DatasetSettings, StoreCredentials
from kubedet_trainer.training.device import set_arithmetic
from kubedet_trainer.training.source import Source, read_source
from kubedet_trainer.weights.load import load_weights

_log = logging.getLogger(__name__)


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


def load_detector(
    uri: str,
    *,
    recipe_name: str | None = None,
    classes: tuple[str, ...] | None = None,
    mirror: str | None = None,
    credentials: StoreCredentials | None = None,
    cache: Path,
    device: torch.device,
) -> TrainedDetector:
    """The detector whose weights are at `uri`: a file, a checkpoint, or the newest checkpoint below it.

    Args:
        uri: file, s3, http or https.
        recipe_name: what it was trained by, if the weights do not say so.
        classes: names of the labels 1, 2, ..., if the weights do not say so.
        mirror: base address that published weights are fetched from instead of their publisher's.
        credentials: of the object store.
        cache: folder for what is downloaded.
        device: where the detector will compute.

    Raises:
        InvalidInput: recipe or classes are unknown, or the weights are not those of such a detector.
        MissingInput, CredentialsRefused, StorageUnreachable: the weights cannot be had.
    """
    source = read_source(uri, cache=cache, mirror=mirror, credentials=credentials)
    recipe = read_recipe_of(source, given=recipe_name)
    names = classes or source.weights.classes
    if source.weights.classes not in (None, names):
        _log.warning(
            "%s names its classes %s; they are called %s here, as --classes says",
            source.name,
            ", ".join(source.weights.classes or ()),
            ", ".join(names or ()),
        )
    if names is None:
        raise InvalidInput(
            f"classes: {source.name} does not name its classes, must be given with --classes: coco, voc, or "
            "the names separated by commas, in the order of the training"
        )
    return build_detector(source, recipe=recipe, classes=names, device=device)


def read_recipe_of(source: Source, *, given: str | None) -> Recipe:
    """The recipe called `given`, else the one that the weights say they were trained by.

    Raises:
        InvalidInput: nothing names a recipe, or one that is known here.
    """
    if given is not None:
        return recipes.read_recipe(given)
    document = source.recipe
    if document is not None:
        return config.restore_recipe(recipes.read_recipe(document["name"]), document)
    published = published_files.recipe_of(source.name)
    if published is None:
        raise InvalidInput(
            f"recipe: {source.name} does not name its recipe, must be given with --recipe; `kubedet recipes` "
            "lists them"
        )
    return recipes.read_recipe(published)


def build_detector(
    source: Source, *, recipe: Recipe, classes: tuple[str, ...], device: torch.device
) -> TrainedDetector:
    """The detector of `recipe` with exactly the weights of `source`.

    Raises:
        InvalidInput: they are not those of such a detector.
    """
    set_arithmetic(recipe, device=device)
    model = recipe.build(num_classes=len(classes) + 1)
    load_weights(model, weights=source.weights, file=source.name)
    return TrainedDetector(model=model.to(device).eval(), recipe=recipe, classes=classes, device=device)


def choose_device(name: str) -> torch.device:
    """The device called ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.

    Raises:
        UsageError: there is no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device: got 'cuda', but torch sees no GPU, must be cpu here")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _find_split(local: LocalDataset, name: str) -> LocalSplit:
    found = {"val": local.val, "test": local.test}[name]
    if found is None:
        field, rule = {
            "val": ("dataset.validate: got false", "true to evaluate"),
            "test": ("dataset.test: absent", "given with --test-annotations to evaluate on it"),
        }[name]
        raise InvalidInput(f"{field}, must be {rule}")
    return found


def measure(
    detector: TrainedDetector, *, dataset: DatasetSettings, split: str = "val", directory: Path
) -> dict[str, float]:
    """COCO's figures of `detector` on a split, in percent.

    Args:
        detector: what to measure.
        dataset: has the split.
        split: ``val`` or ``test``.
        directory: where a remote data set is downloaded to, and annotations are cached.

    Raises:
        InvalidInput: the data set has no such split, has other classes than the detector, or breaks a rule.
        TrainerError: the data set is not there.
    """
    local = prepare_dataset(dataset, directory / contract.DATASET_DIRECTORY)
    source = _find_split(local, split)
    annotations = arrays.load_annotations(
        source,
        cache=directory / contract.CACHE_DIRECTORY,
        reading=opening.reading(detector.recipe.data, classes=detector.classes, truth=True),
    )
    arrays.require_images(annotations, source.images)
    images = splits.validation_split(
        annotations,
        name=split,
        folder=source.images,
        proposals=proposals.open_proposals(
            dataset,
            split=split,
            annotations=annotations,
            slots=detector.recipe.data.num_proposals,
            directory=directory,
        ),
    )
    result = evaluate(
        detector.model,
        loader.val_loader(
            images,
            pipeline=detector.pipeline,
            world=World(device=detector.device),
            num_workers=detector.recipe.data.num_workers,
        ),
        num_images=len(images),
        scorer=build_scorer(
            detector.recipe.evaluation_kind,
            truth=annotations.truth,
            max_detections=config.detection_limit(detector.recipe),
            is_judged=True,
        ),
        device=detector.device,
    )
    assert result is not None  # one process is rank 0, and nothing stops it
    return result.metrics
