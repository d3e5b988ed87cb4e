"""One job of the chaos matrix: how it is taken to each phase, hit there, and judged at its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

import builders
from chaos_cells import NOTHING, Budget, Cell, Life
from chaos_outcome import Outcome, list_committed, read_object, read_outcome
from chaos_strikes import find_rank, find_victim, is_alive
from chaos_world import BUCKET, NAMESPACE, NODE, SECRET, World, wait_for
from kube import Refused
from kubedet_trainer import contract
from kubedet_trainer.contract import Stage
from kubedet_trainer.contract.times import format_now, parse_time
from kubelet import Container
from trainer_ranks import TINY

EXTENSION = Path(__file__).resolve().parent / "extension"
EPOCH = 5
"""Iterations of an epoch, after each of which a state is saved."""

ITERATIONS = 5 * EPOCH
EVALUATED = 2 * EPOCH
"""Iteration of the first evaluation; the others are two epochs later and at the end."""

_HANG_SECONDS = 10
_HELD_SECONDS = 120
"""After which a rank counts as hung: soon, and later where steps are held back while a fault lasts."""

_REACH_SECONDS = 100
_END_SECONDS = 150
_LOOK_SECONDS = 0.02


@dataclass(kw_only=True)
class Verdict:
    """How a cell went."""

    cell: Cell
    seconds: float = 0.0
    attempts: int = 0
    budget: Budget = NOTHING
    process_restarts: int = 0
    is_judged: bool = True
    """Whether the job was hit in all phases of its life."""
    faults: list[str] = field(default_factory=list)
    """What must not be; empty if all is well."""

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "cell": list(self.cell), "budget": list(self.budget)}


@dataclass
class _Strike:
    """A moment at which the job was hit."""

    time: str
    spent: Budget
    processes: int
    committed: frozenset[int]


def build_job(name: str, *, hold: Path, hang_seconds: int) -> dict[str, Any]:
    """Two workers of one rank each: 25 iterations, of which each fifth is saved, and three evaluations.

    No epoch ends while there is a file `hold`.
    """
    overrides = {
        **TINY,
        "data.images_per_process": "2",
        "data.num_workers": "0",
        "schedule.warmup_iterations": "5",
        "schedule.epochs": "5",
    }
    variables = {
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
        "PACE_EPOCH": str(EPOCH),
        "PACE_HOLD": str(hold),
        "PYTHONPATH": str(EXTENSION),
    }
    return builders.make_manifest(
        name=name,
        namespace=NAMESPACE,
        recipe="paced:smoke_paced",
        overrides=overrides,
        dataset={"storageUri": "synthetic://shapes?images=20&val_images=6&size=96x64"},
        worker={
            "replicas": 2,
            "terminationGracePeriodSeconds": 40,
            "env": [{"name": key, "value": value} for key, value in variables.items()],
            "template": {"spec": {"nodeName": NODE}},
        },
        checkpoint={
            "storageUri": f"s3://{BUCKET}/{name}",
            "secretRef": {"name": SECRET},
            "keepLast": 100,
        },
        evaluation={"everyEpochs": 2},
        benchmark={"images": 10},
        failurePolicy={"hangTimeoutSeconds": hang_seconds},
        backoffLimit=10,
    )


async def play(life: Life, world: World, *, name: str, undisturbed: Outcome) -> list[Verdict]:
    """Play a life to its end. The verdicts are those of its cells.

    Args:
        life: its fault and phases.
        world: where it takes place.
        name: of the job.
        undisturbed: what the same training leaves that meets nothing.
    """
    played = _Played(life, world, name)
    await world.ready()
    never_wakes = life.fault.stands_still and life.fault.seconds is None
    hang_seconds = _HANG_SECONDS if never_wakes else _HELD_SECONDS
    await world.create_job(build_job(name, hold=played.hold, hang_seconds=hang_seconds))
    try:
        await played.meet_faults()
        if not any(verdict.faults for verdict in played.verdicts):
            await played.judge(undisturbed)
    finally:
        await world.ready()
        with suppress(Refused, aiohttp.ClientError):
            await world.delete_job(name)
    return played.verdicts


async def train_undisturbed(world: World) -> Outcome:
    """What the training leaves that meets nothing."""
    life = Life("rank", "KILL", ())
    played = _Played(life, world, "undisturbed")
    await world.create_job(build_job("undisturbed", hold=played.hold, hang_seconds=_HANG_SECONDS))
    status = await played.await_end()
    assert played.ended(status) == "Complete", status
    assert played.spent(status) == NOTHING, status
    outcome = await asyncio.to_thread(read_outcome, world, "undisturbed", status)
    assert outcome.weights.keys() == set(range(EPOCH, ITERATIONS + 1, EPOCH))
    await world.delete_job("undisturbed")
    return outcome


class _Played:
    """A life while it is played."""

    def __init__(self, life: Life, world: World, name: str) -> None:
        self.life = life
        self.world = world
        self.name = name
        self.verdicts: list[Verdict] = []
        self.hold = world.kubelet.folder / f"{name}.hold"
        self._strikes: list[_Strike] = []
        self._began = time.monotonic()

    async def meet_faults(self) -> None:
        """Hit the target in each phase in turn."""
        self.verdicts = [Verdict(cell=cell) for cell in self.life.cells]
        for verdict in self.verdicts:
            self._began = time.monotonic()
            try:
                await self._meet(verdict.cell)
            except (AssertionError, TimeoutError, Refused) as error:
                for unjudged in self.verdicts:
                    unjudged.is_judged = False
                    unjudged.faults.append(f"not judged, {verdict.cell.phase}: {error}")
                return
            verdict.seconds = round(time.monotonic() - self._began, 1)

    async def _meet(self, cell: Cell) -> None:
        before = _BEFORE.get(cell.phase)
        first = await self._reach(before or self._predicate(cell.phase), cell.phase)
        await self._note()
        victim = find_victim(cell.target, world=self.world, job=self.name, first=first)
        if before:
            await self._reach(self._predicate(cell.phase), cell.phase)
        fault, hit = self.life.fault, victim.pids()
        if not fault.stands_still:
            self.hold.touch()
        await victim.meet(cell.means, fault.seconds_in(cell.phase))
        if fault.stands_still and (cell.means in ("TERM", "KILL") or fault.seconds_in(cell.phase) is None):
            await wait_for(lambda: not any(map(is_alive, hit)), "end of what was hit")
        await self.world.ready()
        self.hold.unlink(missing_ok=True)

    def _predicate(self, phase: str) -> Callable[[Container], bool]:
        return _AT_START[self.life.target] if phase == "start" else _PHASES[phase]

    async def judge(self, undisturbed: Outcome) -> None:
        """Wait for the end of the job, and find what is wrong with each cell."""
        status = await self.await_end()
        last = self.verdicts[-1]
        last.seconds = round(time.monotonic() - self._began, 1)
        spent = [*self._strikes, _Strike("", self.spent(status), self._processes(status), frozenset())]
        for number, verdict in enumerate(self.verdicts):
            before, after = spent[number], spent[number + 1]
            verdict.attempts = status.get("attempt", 0) + 1
            verdict.process_restarts = after.processes - before.processes
            verdict.budget = Budget(*(new - old for new, old in zip(after.spent, before.spent, strict=True)))
            expected = self.life.fault.budgets_in(verdict.cell.phase)
            if verdict.budget not in expected:
                verdict.faults.append(f"charged {tuple(verdict.budget)}, must be {tuple(expected[0])}")
        if (end := self.ended(status)) != "Complete":
            last.faults.append(f"ends {end}: {json.dumps(status.get('conditions'))[-600:]}")
            return
        outcome = await asyncio.to_thread(read_outcome, self.world, self.name, status)
        starts = await asyncio.to_thread(self._starts)
        for verdict, met in zip(self.verdicts, self._strikes, strict=True):
            verdict.faults += _losses(met, outcome, starts)
        if not self.life.fault.stands_still and len(starts) > 1:
            last.faults.append(f"the training starts {len(starts)} times, must continue")
        last.faults += _differences(outcome, undisturbed)

    async def await_end(self) -> dict[str, Any]:
        """The status of the job once it is over, or after a long time."""
        deadline = time.monotonic() + _END_SECONDS
        status: dict[str, Any] = {}
        while time.monotonic() < deadline and self.ended(status) == "not at all":
            await asyncio.sleep(0.3)
            with suppress(aiohttp.ClientError, Refused, OSError, TimeoutError):
                status = (await self.world.read_job(self.name)).get("status", {})
        return status

    @staticmethod
    def ended(status: Mapping[str, Any]) -> str:
        """How a job has ended."""
        for condition in status.get("conditions", ()):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return str(condition["type"])
        return "not at all"

    @staticmethod
    def spent(status: Mapping[str, Any]) -> Budget:
        """What a job has been charged with."""
        restarts = status.get("restarts") or {}
        return Budget(restarts.get("application", 0), restarts.get("infrastructure", 0))

    @staticmethod
    def _processes(status: Mapping[str, Any]) -> int:
        return int((status.get("restarts") or {}).get("process", 0))

    async def _note(self) -> None:
        """Note what the job had before it is hit."""
        committed = await asyncio.to_thread(list_committed, self.world, self.name)
        status = (await self.world.read_job(self.name)).get("status", {})
        self._strikes.append(
            _Strike(
                format_now(),
                self.spent(status),
                self._processes(status),
                frozenset(committed),
            )
        )

    async def _reach(self, is_there: Callable[[Container], bool], phase: str) -> Container:
        """The worker with rank 0, once the training is there.

        Raises:
            TimeoutError: it does not get there.
        """
        deadline = time.monotonic() + _REACH_SECONDS
        while time.monotonic() < deadline:
            first = self._first()
            if first is not None and is_there(first):
                return first
            await asyncio.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"the job does not reach {phase} within {_REACH_SECONDS} s")

    def _first(self) -> Container | None:
        """The worker with rank 0: the one that has written its progress last."""
        found = []
        for container in self.world.pods_of(self.name):
            with suppress(FileNotFoundError):
                found.append(((container.work / contract.PROGRESS_FILE).stat().st_mtime, container))
        return max(found, key=lambda item: item[0])[1] if found else None

    def _starts(self) -> list[dict[str, Any]]:
        """The starts of rank 0, as the report of the run lists them."""
        document = json.loads(read_object(self.world, f"{self.name}/{contract.RESULTS_FILE}"))
        return list(document["run"]["starts"])


@dataclass(frozen=True)
class _Progress:
    """What rank 0 has told of itself."""

    stage: str = Stage.INITIALIZING
    iteration: int = 0
    saved: int = 0


def _progress(first: Container) -> _Progress:
    try:
        record = json.loads((first.work / contract.PROGRESS_FILE).read_text())
    except FileNotFoundError:
        return _Progress()
    progress, checkpoint = record["progress"], record.get("checkpoint") or {}
    return _Progress(progress["stage"], progress.get("iteration", 0), checkpoint.get("iteration", 0))


def _is_training(first: Container) -> bool:
    found = _progress(first)
    return found.stage == Stage.TRAINING and found.saved >= EPOCH


def _is_evaluating(first: Container) -> bool:
    found = _progress(first)
    return found.stage == Stage.EVALUATING and found.iteration == EVALUATED


def _has_evaluated(first: Container) -> bool:
    found = _progress(first)
    return found.stage == Stage.TRAINING and found.iteration >= EVALUATED


def _is_saving(first: Container) -> bool:
    iteration = _progress(first).iteration
    # Not that of the last epoch, which cannot be held back: the end would come before the fault is over.
    return (
        EVALUATED < iteration < ITERATIONS
        and iteration % EPOCH == 0
        and (first.work / contract.SAVING_FILE).exists()
    )


def _is_ending(first: Container) -> bool:
    found = _progress(first)
    return found.stage == Stage.BENCHMARKING and found.iteration == ITERATIONS


_PHASES: dict[str, Callable[[Container], bool]] = {
    "train": _is_training,
    "evaluate": _is_evaluating,
    "save": _is_saving,
    "end": _is_ending,
}
_BEFORE = {"save": _has_evaluated}
"""When the victim is chosen, where the phase itself is too short for that."""

_AT_START: dict[str, Callable[[Container], bool]] = {
    **dict.fromkeys(
        ("PID 1", "worker pod", "rendezvous", "operator leader", "API server", "S3"),
        lambda first: len(first.pids()) > 1,  # PID 1 has begun to start others, so that it heeds signals
    ),
    "rank": lambda first: find_rank(first) is not None,
}
"""What `start` is for each target: as early as it exists and heeds signals."""


def _losses(met: _Strike, outcome: Outcome, starts: list[dict[str, Any]]) -> list[str]:
    """What was committed when the job was hit, and is not there or was not used."""
    faults = [f"lost: the checkpoint of iteration {gone}" for gone in met.committed - outcome.weights.keys()]
    newest = max(met.committed, default=0)
    for start in starts:
        if parse_time(start["time"]) > parse_time(met.time) and start["iteration"] < newest:
            faults.append(f"starts again from {start['iteration']} after {newest} was committed")
    return faults


def _differences(outcome: Outcome, undisturbed: Outcome) -> list[str]:
    """What came out otherwise. A state that could not be saved before the next one was is no difference."""
    faults = [
        f"other weights at iteration {iteration}"
        for iteration, weights in undisturbed.weights.items()
        if outcome.weights.get(iteration, None if iteration == ITERATIONS else weights) != weights
    ]
    if outcome.figures != undisturbed.figures:
        faults.append("other figures in the row")
    return faults
