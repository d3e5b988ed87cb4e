"""The weights that a run begins with: those that its training starts from, or those that it measures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kubedet_trainer import contract, dist
from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import Task
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import published_files
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.training.source import Source, read_source
from kubedet_trainer.training.state import TrainState
from kubedet_trainer.weights.load import load_weights
from kubedet_trainer.weights.start import Origins, start_from

_log = logging.getLogger(__name__)


def load_initial(
    state: TrainState,
    *,
    settings: RunSettings,
    recipe: Recipe,
    classes: Sequence[str],
    world: dist.World,
    waiting: Callable[[], None],
) -> None:
    """Start from the user's weights, else from the recipe's, if there are any. Every rank must call this.

    `waiting` is called about every second while another rank downloads them.

    Raises:
        TrainerError: the weights cannot be had, or are not those of such a model.
    """
    if (uri := settings.pretrained_uri or recipe.pretrained) is None:
        return
    source = _read(uri, settings=settings, world=world, waiting=waiting)
    origins = start_from(
        state.model,
        weights=source.weights,
        file=source.name,
        classes=_class_names(source, classes, keeps_detector=not settings.trains),
    )
    _note(state, origins, world=world)


def read_measured(
    settings: RunSettings, recipe: Recipe, *, world: dist.World, waiting: Callable[[], None]
) -> Source | None:
    """The weights to measure: the user's, else those that the zoo published; None for a run that trains.

    Every rank must call this; `waiting` is called about every second while another rank downloads them.

    Raises:
        InvalidInput: the user names none, and none are published.
        TrainerError: they cannot be had.
    """
    if settings.task is not Task.MEASURE:
        return None
    uri = settings.pretrained_uri
    if uri is None and not published_files.has_published_file(recipe.name):
        raise InvalidInput(
            f"pretrained: absent, must be set to measure {recipe.name}: the zoo published no weights for it"
        )
    uri = uri or published_files.published_uri(recipe.name)
    return _read(uri, settings=settings, world=world, waiting=waiting)


def load_measured(state: TrainState, source: Source, *, world: dist.World) -> None:
    """Fill the model with exactly the weights of `source`.

    Raises:
        InvalidInput: they are not those of such a detector.
    """
    load_weights(state.model, weights=source.weights, file=source.name)
    _note(state, Origins(file=source.name, loaded=tuple(state.model.state_dict())), world=world)


def _read(uri: str, *, settings: RunSettings, world: dist.World, waiting: Callable[[], None]) -> Source:
    """The weights at `uri`, which one rank of each worker downloads for all of them."""
    if world.local_rank != 0:
        dist.barrier(waiting=waiting)
    source = read_source(
        uri,
        cache=settings.work_directory / contract.CACHE_DIRECTORY,
        sha256=settings.pretrained_sha256 if settings.pretrained_uri else None,
        mirror=settings.weights_mirror,
        credentials=settings.checkpoint.credentials,
    )
    if world.local_rank == 0:
        dist.barrier(waiting=waiting)
    return source


def _class_names(source: Source, classes: Sequence[str], *, keeps_detector: bool) -> Sequence[str]:
    """What the model's classes are called. A benchmark keeps a detector whole, on generated images too."""
    theirs = source.weights.classes
    return theirs if keeps_detector and theirs is not None and len(theirs) == len(classes) else classes


def _note(state: TrainState, origins: Origins, *, world: dist.World) -> None:
    state.history.pretrained = origins.record()
    if world.rank == 0:
        _log.info("%s", origins.describe(), extra={"pretrained": origins.record()})
