"""Where the time of a job goes: whole lives whose seconds are known, and what is booked of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from clockwork import BEGINNING
from kubedet_operator.decision.policies import accounting
from kubedet_trainer.contract import Progress, ProgressRecord, Stage, TimePhase, TimeSpent
from scenario import ELASTIC, NO_GPU, RESULTS, STATE, THREE, TWO
from simulation import Simulation, make_progress


class Rank0:
    """One process of rank 0, as it counts its own time."""

    def __init__(self, world: Simulation, *, iteration: int = 0) -> None:
        self.world = world
        self.since = world._time()
        self.iteration, self.done = iteration, 0
        self.checkpoint: int | None = iteration or None
        self.seconds: Counter[str] = Counter()

    def spend(self, seconds: int, phase: str, *, iterations: int = 0) -> None:
        self.world.wait(seconds)
        self.seconds[phase] += seconds
        self.iteration += iterations
        self.done += iterations

    def report(self, *, saved: bool = False) -> None:
        """The operator asks, and looks at the answer."""
        if saved:
            self.checkpoint = self.iteration
        record = make_progress(self.iteration, self.checkpoint, world_size=1, time=self.world._time())
        spent = TimeSpent(since=self.since, iterations=self.done, seconds=dict(self.seconds))
        self.world.progress = replace(record, progress=replace(record.progress, time=spent))
        self.world.settle()


def _start(spec: dict[str, Any], *, indices: tuple[int, ...] = (0,)) -> Simulation:
    """A job whose workers wait for a node for 30 s, and start within 20 s then."""
    world = Simulation(spec)
    world.settle()
    for index in indices:
        world.unschedule(index, NO_GPU)
    world.settle()
    world.wait(30)
    for index in indices:
        world.place(index, f"node-{index}")
    world.settle()
    world.wait(20)
    world.run(indices)
    world.settle()
    return world


def _seconds(world: Simulation) -> dict[str, float]:
    found: dict[str, float] = world.status["time"]["seconds"]
    return found


def _life(world: Simulation) -> float:
    return (world.now - BEGINNING).total_seconds()


def test_a_life_with_a_kill_a_suspension_and_evaluations_is_accounted_for_to_the_second() -> None:
    world = _start({"checkpoint": STATE})
    world.wait(6)  # before the launcher has rank 0 begin
    rank = Rank0(world)
    rank.spend(4, "starting")
    rank.spend(1, "training", iterations=1)
    rank.report()
    rank.spend(99, "training", iterations=99)
    rank.spend(10, "data_wait")
    rank.spend(5, "checkpoint_stall")
    rank.report(saved=True)
    rank.spend(40, "evaluating")
    rank.spend(50, "training", iterations=50)
    rank.report()

    world.wait(7)  # nobody asks any more what it does now
    world.end(0, 137)
    world.settle()
    world.wait(15)
    world.run([0])
    world.settle()
    launched = Progress(stage=Stage.INITIALIZING)  # the pod is back, and that is all
    world.progress = ProgressRecord(progress=launched)
    world.settle()
    assert world.status["phase"] == "Running"
    world.wait(6)
    rank = Rank0(world, iteration=100)
    rank.spend(4, "starting")
    rank.spend(3, "restoring")
    rank.spend(20, "training", iterations=20)
    rank.report()
    rank.spend(40, "training", iterations=40)
    rank.report()

    world.hold(0)
    world.change(suspend=True)
    world.settle()
    rank.spend(4, "checkpoint_stall")
    rank.report(saved=True)
    world.end(0, 143)
    world.release(0)
    world.settle()
    world.wait(500)
    world.change(suspend=False)
    world.settle()
    world.wait(12)
    world.run([0])
    world.settle()
    rank = Rank0(world, iteration=160)
    rank.spend(5, "starting")
    rank.spend(2, "restoring")
    rank.spend(840, "training", iterations=840)
    rank.report(saved=True)
    rank.spend(25, "evaluating")
    world.end(0, 0, RESULTS)
    world.settle()

    assert world.status["phase"] == "Succeeded"
    assert _seconds(world) == {
        "pending": 30,
        "starting": 20 + 6 + 4 + 12 + 5,
        "training": 100 + 50 + 10 + 840,
        "data_wait": 10,
        "checkpoint_stall": 5 + 4,
        "evaluating": 40 + 25,
        "lost": 7 + 50,
        "restarting": 15 + 6 + 4,
        "restoring": 3 + 2,
        "suspended": 500,
    }
    assert sum(_seconds(world).values()) == _life(world)
    assert world.status["progress"]["goodputPercent"] == round(100 * 1000 / _life(world))
    world.wait(86400)
    world.settle()
    assert sum(accounting.seconds_by_phase(world.job or {}, now=world.now).values()) == _life(world) - 86400


NOTHING = dict.fromkeys(map(str, TimePhase), 0.0)


def test_what_is_certain_is_exposed_before_it_is_booked() -> None:
    world = Simulation({})
    world.settle()
    world.unschedule(0, NO_GPU)
    world.settle()
    writes = world.writes
    world.wait(86400)
    assert world.writes == writes
    assert "pending" not in _seconds(world)
    assert accounting.seconds_by_phase(world.job or {}, now=world.now) == {**NOTHING, "pending": 86400}


def test_while_rank_0_trains_only_what_it_has_reported_is_exposed() -> None:
    world = _start({})
    rank = Rank0(world)
    rank.spend(60, "training", iterations=60)
    rank.report()
    later = world.now + timedelta(seconds=45)
    exposed = accounting.seconds_by_phase(world.job or {}, now=later)
    assert exposed == {**NOTHING, "pending": 30, "starting": 20, "training": 60}


def test_a_process_that_restarts_in_its_pod_repeats_what_was_not_saved() -> None:
    world = _start({"checkpoint": STATE})
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report(saved=True)
    rank.spend(30, "training", iterations=30)
    rank.spend(10, "restarting")
    rank.iteration = 100
    rank.spend(50, "training", iterations=50)
    rank.report()
    # 80 iterations brought 50 that were new.
    assert _seconds(world)["training"] == 150
    assert _seconds(world)["lost"] == 30
    assert _seconds(world)["restarting"] == 10


def test_the_others_train_on_while_a_worker_of_an_elastic_job_is_replaced() -> None:
    world = _start({**ELASTIC, "worker": THREE}, indices=(0, 1, 2))
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report(saved=True)
    world.wait(5)
    world.end(0, 137)
    world.settle()
    world.wait(25)  # the others meet anew
    rank = Rank0(world, iteration=100)
    rank.spend(60, "training", iterations=60)
    rank.report()
    assert world.status["time"]["phase"] == accounting.RUNNING
    assert _seconds(world) == {"pending": 30, "starting": 20, "training": 160, "restarting": 30}


def test_iterations_of_another_batch_are_no_progress_by_themselves() -> None:
    world = _start({"checkpoint": STATE})
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report(saved=True)
    rank.spend(10, "restarting")
    rank.iteration = 200  # half as many images in each: twice as many iterations
    rank.spend(40, "training", iterations=40)
    record = make_progress(240, 200, world_size=1, time=world._time())
    spent = TimeSpent(since=rank.since, iterations=rank.done, seconds=dict(rank.seconds))
    world.progress = replace(record, progress=replace(record.progress, totalIterations=2000, time=spent))
    world.settle()
    assert _seconds(world)["training"] == 140
    assert "lost" not in _seconds(world)


def test_who_resizes_a_job_loses_no_training() -> None:
    world = _start({"checkpoint": STATE, "worker": TWO}, indices=(0, 1))
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report(saved=True)
    world.wait(5)
    world.change(worker={"replicas": 1})
    world.settle()
    world.wait(10)
    world.run([0])
    world.settle()
    assert _seconds(world)["restarting"] == 15
    assert "lost" not in _seconds(world)


@pytest.mark.parametrize("code", [65, 95])
def test_the_last_words_of_a_job_that_fails_are_missing_and_its_time_is_not(code: int) -> None:
    world = _start({})
    rank = Rank0(world)
    rank.spend(60, "training", iterations=60)
    rank.report()
    world.wait(9)
    world.end(0, code)
    world.settle()
    assert world.status["phase"] == "Failed"
    assert _seconds(world) == {"pending": 30, "starting": 20, "training": 60, "lost": 9}


def test_a_clock_of_rank_0_that_is_fast_makes_no_time() -> None:
    world = _start({})
    rank = Rank0(world)
    rank.spend(60, "training", iterations=60)
    rank.seconds["training"] += 30
    rank.seconds["data_wait"] += 10
    rank.report()
    assert _seconds(world) == {"pending": 30, "starting": 20, "training": 54, "data_wait": 6}


def test_what_an_operator_has_missed_is_booked_when_it_comes_back() -> None:
    world = _start({"checkpoint": STATE})
    rank = Rank0(world)
    rank.spend(60, "training", iterations=60)
    rank.report(saved=True)
    world.now += timedelta(seconds=1000)  # nobody decides anything
    rank.seconds["training"] += 900
    rank.seconds["evaluating"] += 100
    rank.iteration += 900
    rank.done += 900
    rank.report()
    assert _seconds(world) == {"pending": 30, "starting": 20, "training": 960, "evaluating": 100}


def test_gpu_seconds_count_while_a_job_has_its_nodes_and_stop_while_it_is_suspended() -> None:
    world = _start({"checkpoint": STATE, "worker": {"gpus": 4}})
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report(saved=True)
    assert world.status["gpuSeconds"] == 4 * (20 + 100), "not the 30 s without a node"
    world.hold(0)
    world.change(suspend=True)
    world.settle()
    world.end(0, 143)
    world.release(0)
    world.settle()
    held = world.status["gpuSeconds"]
    world.wait(3600)
    world.change(suspend=False)
    world.settle()
    assert world.status["gpuSeconds"] == held


def test_a_job_without_gpus_has_no_gpu_seconds() -> None:
    world = _start({"checkpoint": STATE})
    rank = Rank0(world)
    rank.spend(100, "training", iterations=100)
    rank.report()
    assert "gpuSeconds" not in world.status
