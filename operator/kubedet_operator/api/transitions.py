"""Fields that must not change from some moment in the life of a job or a zoo on.

These rules are in CEL only, because only the API server sees both versions of an object.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A point in the life of a job or a zoo, after which it stays in the past."""

    words: str
    """Completes "must not change once ..."; ``{noun}`` is a job or a zoo."""
    passed: str
    """CEL on `oldSelf`, the whole object before the change: the moment has passed."""


STARTED = Moment(
    words="the {noun} has started", passed="has(oldSelf.status) && has(oldSelf.status.startTime)"
)
TRAINED = Moment(
    words="a worker has trained",
    passed="has(oldSelf.status) && (has(oldSelf.status.checkpoint) || "
    "(has(oldSelf.status.progress) && has(oldSelf.status.progress.iteration) && "
    "oldSelf.status.progress.iteration > 0))",
)
"""Until then a correction loses nothing. `Draft.has_trained` is the same in Python."""


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A field that must not change from some moment on."""

    field: str
    """Path below the object."""
    moment: Moment
    unchanged: str
    """CEL on the whole object: the field is as it was."""


MANAGED_BY = Transition(
    field="spec.managedBy",
    moment=STARTED,
    unchanged="self.spec.managedBy == oldSelf.spec.managedBy",
)

TRANSITIONS = (
    Transition(
        field="spec.task",
        moment=TRAINED,
        unchanged="(has(self.spec.task) ? self.spec.task : 'Train') == "
        "(has(oldSelf.spec.task) ? oldSelf.spec.task : 'Train')",
    ),
    Transition(field="spec.recipe", moment=TRAINED, unchanged="self.spec.recipe == oldSelf.spec.recipe"),
    Transition(
        field="spec.overrides",
        moment=TRAINED,
        unchanged="has(self.spec.overrides) == has(oldSelf.spec.overrides) && "
        "(!has(self.spec.overrides) || self.spec.overrides == oldSelf.spec.overrides)",
    ),
    Transition(field="spec.dataset", moment=TRAINED, unchanged="self.spec.dataset == oldSelf.spec.dataset"),
    Transition(
        field="spec.checkpoint.storageUri",
        moment=TRAINED,
        unchanged="has(self.spec.checkpoint) == has(oldSelf.spec.checkpoint) && "
        "(!has(self.spec.checkpoint) || "
        "self.spec.checkpoint.storageUri == oldSelf.spec.checkpoint.storageUri)",
    ),
    MANAGED_BY,
)
"""The first five identify a training: with another value the job would continue a different one.
`facts.Facts.training` is a digest of them."""
