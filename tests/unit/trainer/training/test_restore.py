"""What a run takes over from the checkpoint that it begins with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kubedet_trainer.training import reporting
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.snapshot import take_snapshot


@pytest.mark.parametrize(("name", "starts"), [("run-a", 2), ("run-b", 1), ("run", 1)])
def test_what_another_run_has_cost_is_not_counted(
    make_run: Callable[..., Run], name: str, starts: int
) -> None:
    first = make_run(name="run-a")
    first.state.iteration = 4
    first.state.history.spent.append(reporting.spent(first))
    saved = first.checkpointer.save(take_snapshot(first.state, epoch=2))
    second = make_run(name=name, resume=saved.latest)
    assert second.state.iteration == 4
    assert len(second.state.history.starts) == starts
    assert len(second.state.history.spent) == starts - 1
