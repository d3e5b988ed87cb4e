"""Proposals of a whole data set by a proposal network, as files that Fast R-CNN is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kubedet_trainer import contract
from kubedet_trainer.data import arrays, loader, proposals
from kubedet_trainer.data.prepare import prepare_dataset
from kubedet_trainer.data.proposals import ProposalRecord
from kubedet_trainer.data.splits import Split
from kubedet_trainer.dist import World
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.evaluation import recall
from kubedet_trainer.evaluation.propose import propose
from kubedet_trainer.inference.trained import TrainedDetector
from kubedet_trainer.recipes.rpn import RpnOptions
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.structures import Batch

_RECALL_LIMIT = 1000
"""Best proposals of an image that count for the recall, as many as Fast R-CNN uses."""

Observe = Callable[[str, int, int], None]
"""Receives the split, the number of images done and the number of all images."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file of proposals."""

    uri: str
    num_images: int
    num_proposals: int
    recall: float | None
    """Average recall of the best 1000 by `recall`, in percent; None where the split has no object."""


def propose_dataset(
    detector: TrainedDetector, *, dataset: DatasetSettings, output: str, directory: Path, observe: Observe
) -> list[Written]:
    """Write what the network proposes in every image of both splits to `output`, a folder or prefix.

    The images are seen as in tests: all of them, none mirrored. The store is reached with the data set's
    credentials, as training does later.

    Args:
        detector: a proposal network, as `inference` loads it.
        dataset: whose images are looked at.
        output: URI that `DatasetSettings.proposals_uri` is to name.
        directory: where a remote data set is downloaded to, and annotations are cached.
        observe: is called after every image.

    Raises:
        InvalidInput: the detector is no proposal network, or the data set breaks a rule.
        MissingInput, CredentialsRefused, StorageUnreachable: the data set cannot be had, or the output not
            written.
    """
    model = detector.recipe.model
    if type(model) is not RpnOptions:  # all detectors with a proposal network derive from it
        raise InvalidInput(f"recipe: {detector.recipe.name} is a {model.architecture}, must be an rpn")
    store = open_store(output, dataset.credentials)
    local = prepare_dataset(dataset, directory / contract.DATASET_DIRECTORY)
    written = []
    for name, files in zip(proposals.SPLITS, (local.train, local.val), strict=True):
        if files is None:
            continue
        annotations = arrays.load_annotations(files, cache=directory / contract.CACHE_DIRECTORY)
        arrays.require_images(annotations, files.images)
        split = Split.whole(annotations, files.images)
        record, share = _propose_split(
            detector,
            split,
            most=model.rpn_head.num_proposals,
            observe=partial(observe, name),
        )
        written.append(
            Written(
                uri=proposals.put_proposals(store, record, split=name, directory=directory),
                num_images=len(split),
                num_proposals=len(record.scores),
                recall=share,
            )
        )
    return written


def _propose_split(
    detector: TrainedDetector, split: Split, *, most: int, observe: Callable[[int, int], None]
) -> tuple[ProposalRecord, float | None]:
    batches = loader.val_loader(
        split,
        pipeline=detector.pipeline,
        world=World(device=detector.device),
        num_workers=detector.recipe.data.num_workers,
    )
    record = propose(
        detector.model,
        _observed(batches, lambda done: observe(done, len(split))),
        image_ids=np.asarray(split.annotations.image_ids),
        most=most,
        device=detector.device,
    )
    assert record is not None, "one process is rank 0, and nobody stops it"
    matched = []
    for row in range(len(split)):
        truth, _ = split.annotations.ground_truth(row)
        best = slice(record.offsets[row], min(record.offsets[row + 1], record.offsets[row] + _RECALL_LIMIT))
        matched.append(recall.match_best(truth, record.boxes[best]))
    return record, recall.average_recall(matched)


def _observed(batches: Iterable[Batch], observe: Callable[[int], None]) -> Iterator[Batch]:
    """`batches`; `observe` learns after each how many images are done."""
    for done, batch in enumerate(batches, start=1):
        yield batch
        observe(done)
