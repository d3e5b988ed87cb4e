"""Opens a data set for a run: all splits by the same rules, with the same classes.

`check-data` and jobs both come here, so that they say the same. Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kubedet_trainer import contract
from kubedet_trainer.config import DataConfig
from kubedet_trainer.data import arrays, proposals, splits
from kubedet_trainer.data.arrays import Annotations, Reading
from kubedet_trainer.data.prepare import LocalDataset
from kubedet_trainer.data.proposals import ProposalTable
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.splits import Split
from kubedet_trainer.settings import DatasetSettings

Load = Callable[[LocalSplit, Reading], Annotations]
"""How the annotations of a split are had."""

FindProposals = Callable[[str, Annotations], ProposalTable | None]
"""The proposals of ``train`` or ``val``, None where the detector makes its own."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits of a run, with the same classes."""

    train: Split
    val: Split | None
    test: Split | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the labels 1, 2, ..."""
        return list(self.train.annotations.classes)

    def left_out(self, data: DataConfig) -> dict[str, int]:
        """How many images and objects of the training split are not learnt, by the reason."""
        annotations = self.train.annotations
        return {**splits.images_left_out(annotations, data), **annotations.left_out}


def open_dataset(
    local: LocalDataset,
    data: DataConfig,
    *,
    settings: DatasetSettings,
    directory: Path,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Open the splits that training needs, images and all.

    Args:
        local: where the splits lie.
        data: what the recipe asks for.
        settings: say where the proposals lie.
        directory: the work directory, below which caches go.
        classes: of a detector that exists, which the splits must have; None for those of `data`.

    Raises:
        MissingInput: a file is absent.
        InvalidInput: the data break a rule.
    """
    load = partial(_load_whole, cache=directory / contract.CACHE_DIRECTORY)
    return open_splits(
        local,
        data,
        load=load,
        find_proposals=lambda split, annotations: proposals.open_proposals(
            settings,
            split="val" if split == "train" and not settings.train else split,
            annotations=annotations,
            slots=data.num_proposals,
            directory=directory,
        ),
        classes=classes,
    )


def open_splits(
    local: LocalDataset,
    data: DataConfig,
    *,
    load: Load,
    find_proposals: FindProposals,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """`open_dataset`, its files read by `load` and `find_proposals`."""
    train = load(local.train, reading(data, classes=classes or data.classes or None, required=True))

    def evaluated(name: str, split: LocalSplit | None) -> Split | None:
        if split is None:
            return None
        annotations = load(split, reading(data, classes=train.classes, truth=True))
        return splits.validation_split(
            annotations, name=name, folder=split.images, proposals=find_proposals(name, annotations)
        )

    return Dataset(
        train=splits.training_split(
            train, folder=local.train.images, data=data, proposals=find_proposals("train", train)
        ),
        val=evaluated("val", local.val),
        test=evaluated("test", local.test),
    )


def reading(
    data: DataConfig, *, classes: tuple[str, ...] | None, truth: bool = False, required: bool = False
) -> Reading:
    """How a recipe has a split read, with these classes or all that it has."""
    return Reading(
        masks=data.masks,
        truth=truth,
        classes=classes,
        leave_out=bool(data.classes),
        required=required,
        max_pixels=data.max_image_pixels,
    )


def log_findings(dataset: Dataset, left_out: Mapping[str, int]) -> None:
    """Say what a user should know of the data, and what training leaves out."""
    if dataset.val is None:
        _log.warning("there is no validation split: this training has no average precision")
    for split in (dataset.train, dataset.val, dataset.test):
        for note in split.annotations.notes if split else ():
            _log.warning("%s", note)
    if repeated := splits.describe_repeated(dataset.train):
        _log.info("%s", repeated)
    if left_out:
        _log.warning("left out of training: %s", splits.describe(left_out), extra={"leftOut": dict(left_out)})


def _load_whole(split: LocalSplit, how: Reading, *, cache: Path) -> Annotations:
    annotations = arrays.load_annotations(split, cache=cache, reading=how)
    arrays.require_images(annotations, split.images)
    return annotations
