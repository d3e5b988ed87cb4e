"""One optimiser step of the loop: it waits for nothing, in every precision, and is what the zoo did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kubedet_trainer.config import plan_batch
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.structures import Batch
from kubedet_trainer.telemetry import memory
from kubedet_trainer.training import loop, results, scoring, setup
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.state import chunk_seed
from trainer_builders import forbid_host_synchronisation

MakeRun = Callable[..., Run]


def _batches(run: Run) -> list[Batch]:
    return list(run.batches(end_iteration=2))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_learns_without_waiting_for_the_device(make_run: MakeRun, precision: str) -> None:
    run = make_run(precision=precision)
    batches = iter(_batches(run))
    loop._step(run, batches)  # constants are made once
    before = {name: value.clone() for name, value in run.state.model.named_parameters()}
    with forbid_host_synchronisation():
        loop._step(run, batches)
    assert run.state.iteration == 2
    assert run.monitor.check() == 0
    changed = [
        name for name, value in run.state.model.named_parameters() if not torch.equal(value, before[name])
    ]
    assert len(changed) > len(before) / 2


def test_a_step_is_the_mean_over_its_chunks(make_run: MakeRun) -> None:
    run = make_run(**{"optimizer.clip_norm": "none", "optimizer.weight_decay": "0"})
    batches = _batches(run)[:2]
    expected = _gradients_by_hand(run, batches)
    before = {name: value.detach().clone() for name, value in run.state.model.named_parameters()}
    loop._step(run, iter(batches))
    rate = run.state.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(run.recipe.optimizer.lr * run.recipe.schedule.warmup_ratio)
    for name, value in run.state.model.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] - rate * expected[name], msg=name)


def _gradients_by_hand(run: Run, batches: list[Batch]) -> dict[str, Any]:
    """The mean of the chunks' gradients, each with the seed of its chunk."""
    sums: dict[str, Any] = {name: 0 for name, _ in run.state.model.named_parameters()}
    for chunk, batch in enumerate(batches):
        run.state.model.zero_grad()
        run.generator.manual_seed(chunk_seed(run.recipe.seed, iteration=0, chunk=chunk))
        losses = loop._forward(run, batch)
        torch.autograd.backward(list(losses.values()))
        for name, value in run.state.model.named_parameters():
            sums[name] = sums[name] + value.grad
    run.state.model.zero_grad()
    return sums


def test_gradients_are_clipped_before_the_step(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(**{"optimizer.clip_norm": "0.001"})
    norms: list[float] = []
    step = run.state.optimizer.step

    def note(*arguments: Any, **options: Any) -> Any:
        gradients = [value.grad for value in run.state.model.parameters() if value.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(*arguments, **options)

    monkeypatch.setattr(run.state.optimizer, "step", note)
    loop._step(run, iter(_batches(run)))
    assert norms == [pytest.approx(0.001, rel=1e-3)]


def test_the_rate_of_a_grown_batch_grows_with_it(make_run: MakeRun) -> None:
    run = make_run()
    run.data = setup.RunData(
        **{
            **{name: getattr(run.data, name) for name in run.data.__dataclass_fields__},
            "batch": plan_batch(global_batch=4, images_per_process=2, world_size=4),
        }
    )
    assert loop._learning_rate(run) == pytest.approx(
        2 * run.recipe.optimizer.lr * run.recipe.schedule.warmup_ratio
    )


@pytest.mark.parametrize(
    ("iteration", "every_epochs", "evaluated", "due"),
    [
        (0, 1, [], False),
        (2, 1, [], True),
        (2, 1, [2], False),
        (2, 2, [], False),
        (3, 1, [], False),
        (24, 0, [], True),
    ],
)
def test_evaluation_is_due_at_the_end_of_epochs_and_of_the_run(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    iteration: int,
    every_epochs: int,
    evaluated: list[int],
    due: bool,
) -> None:
    run = make_run(**{"schedule.epochs": "12"})
    run.settings = RunSettings(**{**vars(run.settings), "evaluate_every_epochs": every_epochs})
    run.state.iteration = iteration
    for one in evaluated:
        run.state.history.note_evaluation(one, {"boxAP": 1.0})
    calls: list[Run] = []
    monkeypatch.setattr(results, "start_scoring", lambda run, *_, **__: calls.append(run))
    scoring.evaluate_if_due(run)
    assert bool(calls) is due


def test_measuring_frames_per_second_is_progress_however_slow_a_detector_is(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    beats: list[None] = []
    monkeypatch.setattr(run.reporter, "beat", lambda: beats.append(None))
    assert results._measure_fps(run, images_per_batch=1) is not None
    assert run.data.val is not None
    assert len(beats) == len(run.data.val)


def test_memory_of_training_is_read_before_an_evaluation_raises_its_peak(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, peak = make_run(), 5
    monkeypatch.setattr(memory, "peak_bytes", lambda *_, **__: peak)
    forgotten: list[int] = []
    monkeypatch.setattr(memory, "forget_peak", lambda _: forgotten.append(peak))

    def evaluate(*_: Any, **__: Any) -> None:
        nonlocal peak
        peak = 9

    monkeypatch.setattr(results, "start_scoring", evaluate)
    run.state.iteration = 2
    scoring.evaluate_if_due(run)
    assert (run.state.history.peak_bytes, forgotten) == (5, [9])
    peak = 6
    loop._log_interval(run)
    assert run.state.history.peak_bytes == 6
