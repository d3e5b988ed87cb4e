"""Losses that the device sums, the name of the first bad one, and the times of iterations."""

from __future__ import annotations

import time

import pytest
import torch

from kubedet_trainer.telemetry import monitor
from kubedet_trainer.telemetry.monitor import ForwardTimer, LossMonitor, StepTimer

CPU = torch.device("cpu")


def _terms(first: float, second: float) -> dict[str, torch.Tensor]:
    return {"loss_cls": torch.tensor(first), "loss_reg": torch.tensor(second, requires_grad=True)}


def test_an_interval_gives_the_mean_of_each_term_and_the_next_one_starts_from_zero() -> None:
    watch = LossMonitor(CPU)
    watch.record(1, _terms(1.0, 4.0))
    watch.record(2, _terms(2.0, 6.0))
    (reading,) = watch.close_interval(2)
    assert reading.iteration == 2
    assert reading.means == {"loss_cls": 1.5, "loss_reg": 5.0}
    watch.record(3, _terms(7.0, 8.0))
    (reading,) = watch.close_interval(3, is_last=True)
    assert reading.means == {"loss_cls": 7.0, "loss_reg": 8.0}
    assert watch.alarm == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_term_is_named_although_it_is_read_later(bad: float) -> None:
    watch = LossMonitor(CPU)
    watch.record(1, _terms(1.0, 1.0))
    watch.record(2, _terms(1.0, bad))
    watch.record(3, _terms(bad, bad))
    assert watch.alarm == 0
    watch.close_interval(3)
    assert "loss_reg became NaN or infinite at iteration 2" in watch.explain(watch.alarm)


def test_of_two_bad_terms_of_one_iteration_the_first_is_named() -> None:
    watch = LossMonitor(CPU)
    watch.record(1, _terms(float("nan"), float("nan")))
    assert "loss_cls became NaN or infinite at iteration 1" in watch.explain(watch.check())


def test_the_larger_alarm_is_that_of_the_rank_where_it_began() -> None:
    began, followed = LossMonitor(CPU), LossMonitor(CPU)
    for watch, first_bad in ((began, 5), (followed, 6)):
        for iteration in range(1, 8):
            watch.record(iteration, _terms(1.0, float("nan") if iteration >= first_bad else 1.0))
    alarm = max(began.check(), followed.check())
    assert "iteration 5" in followed.explain(alarm)
    assert alarm < 2**31  # it travels as int32


def test_a_check_within_an_interval_does_not_end_it() -> None:
    watch = LossMonitor(CPU)
    watch.record(1, _terms(1.0, 1.0))
    assert watch.check() == 0
    watch.record(2, _terms(3.0, 3.0))
    assert watch.close_interval(2)[0].means["loss_cls"] == 2.0


def test_the_timer_counts_waits_apart_and_pauses_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 10.0, 60.0, 61.0, 61.5, 64.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    timer = StepTimer()
    with timer.waiting():
        pass
    first = timer.lap()
    assert (first.seconds, first.wait_seconds) == (10.0, 2.0)
    timer.resume()
    with timer.waiting():
        pass
    second = timer.lap()
    assert (second.seconds, second.wait_seconds) == (4.0, 0.5)
    mean = timer.close_interval()
    assert (mean.seconds, mean.wait_seconds) == (7.0, 1.25)


def test_forward_passes_are_timed_without_the_time_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 2.0, 10.0, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    timer = ForwardTimer(CPU)
    for _ in range(2):
        with timer.forward_pass():
            pass
    assert timer.close_interval() == 3.0
    assert timer.close_interval() is None


def test_on_a_gpu_only_passes_that_the_device_has_completed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self) -> None:
            self.ended = False
            made.append(self)

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return self.ended

        def elapsed_time(self, end: Event) -> float:
            assert end.ended
            return 250.0

    made: list[Event] = []
    monkeypatch.setattr(monitor, "_new_event", lambda *, timed: Event())
    timer = ForwardTimer(torch.device("cuda"))
    for _ in range(2):
        with timer.forward_pass():
            pass
    assert timer.close_interval() is None
    made[1].ended = True
    assert timer.close_interval() == 0.25
    assert timer.close_interval() is None
