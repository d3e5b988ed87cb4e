"""What an RPN leaves for others: its proposals for the splits that are read."""

from __future__ import annotations

import numpy as np

from kubedet_trainer import contract
from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import Stage, Task
from kubedet_trainer.data import loader
from kubedet_trainer.data.proposals import SPLITS, ProposalRecord, put_proposals
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.evaluation.propose import propose
from kubedet_trainer.recipes.rpn import RpnOptions
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training import saving
from kubedet_trainer.training.setup import Run


def check_proposals(settings: RunSettings, recipe: Recipe) -> None:
    """Refuse what could only fail after the whole training.

    Raises:
        InvalidInput: proposals are to be written, but the recipe is no RPN.
    """
    # Not isinstance: all detectors with a proposal network derive from it.
    if settings.write_proposals and type(recipe.model) is not RpnOptions:
        raise InvalidInput(
            f"writeProposals: {recipe.name} is a {recipe.model.architecture}, must be an rpn; remove it"
        )


def write_proposals(run: Run) -> str | None:
    """Write the proposals of the splits that are read next to the checkpoints, if asked to.

    Every rank must call this.

    Returns:
        The URI of the folder that `DatasetSettings.proposals_uri` is to name; None if there is none.

    Raises:
        TerminatedSaved, TerminatedUnsaved, PeerFailed: as `saving.end` does, when a rank was asked to stop.
    """
    if not run.settings.write_proposals or run.settings.task is Task.BENCHMARK:
        return None
    target = run.settings.checkpoint
    uri = f"{target.uri.rstrip('/')}/{contract.PROPOSALS_DIRECTORY}"
    with run.reporter.stage(Stage.EVALUATING):
        train = run.data.train if run.settings.dataset.train else None
        for name, split in zip(SPLITS, (train, run.data.val), strict=True):
            if split is None:
                continue
            whole = Split.whole(split.annotations, split.folder)
            record = _propose(run, whole)
            if record is not None:
                store = open_store(uri, target.credentials)
                put_proposals(store, record, split=name, directory=run.settings.work_directory)
    return uri


def _propose(run: Run, split: Split) -> ProposalRecord | None:
    """What the final weights propose in every image of a split; None on every rank but 0."""
    model, data = run.recipe.model, run.recipe.data
    assert isinstance(model, RpnOptions), "it was checked before the training"
    batches = loader.val_loader(
        split, pipeline=Pipeline.of_validation(data), world=run.world, num_workers=data.num_workers
    )
    with saving.stoppable(run) as should_stop:
        return propose(
            run.detector,
            batches,
            image_ids=np.asarray(split.annotations.image_ids),
            most=model.rpn_head.num_proposals,
            device=run.world.device,
            should_stop=should_stop,
        )
