"""Whatever happens to a job, in whatever order the operator learns of it: the rules of `Simulation` hold.

That is: never two attempts at once, never more failures charged than happened, a status that the API takes,
no going in circles. And a job that is left in peace after that ends.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scenario import ELASTIC, RESULTS, STATE, THREE, TWO
from simulation import Simulation

PATIENT: dict[str, Any] = {
    "backoffLimit": 1000,
    "checkpoint": STATE,
    "failurePolicy": {"stopAfterNoProgressRestarts": 1000, "maxInfrastructureRestarts": 1000},
}
SPECS: list[dict[str, Any]] = [
    {**PATIENT},
    {**PATIENT, "worker": TWO},
    {**ELASTIC, **PATIENT, "worker": THREE},
    {**PATIENT, "worker": TWO, "schedulingPolicy": {"gang": "Kueue", "queue": "q"}},
]
INDICES = st.integers(0, 3)
CODES = st.sampled_from([134, 137, 139, 143, 144, 150, 151, 152, 153, 154])
HAPPENINGS = st.one_of(
    st.tuples(st.just("run"), INDICES),
    st.tuples(st.just("end"), INDICES, CODES),
    st.tuples(st.just("end"), st.none(), st.just(137)),
    st.tuples(st.just("evict"), INDICES, st.just("Evicted")),
    st.tuples(st.just("delete"), INDICES),
    st.tuples(st.just("hold"), INDICES),
    st.tuples(st.just("release"), INDICES),
    st.tuples(st.just("unschedule"), INDICES, st.just("0/3 nodes are available")),
    st.tuples(st.just("report"), st.integers(1, 50)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("replicas"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.sampled_from([1, 15, 130, 700])),
)


def _happen(world: Simulation, happening: tuple[Any, ...]) -> None:
    """Let it happen where it can; what is asked of a pod that is not there does not."""
    verb, *arguments = happening
    match verb:
        case "suspend":
            world.change(suspend=arguments[0])
        case "replicas":
            world.change(worker={"replicas": arguments[0]})
        case "report":
            world.report(arguments[0], checkpoint=arguments[0])
        case "wait":
            world.wait(arguments[0])
        case "hold" | "release":
            getattr(world, verb)(*arguments)
        case "run":
            if _is_there(world, arguments[0]):
                world.run(arguments)
        case _:
            if _is_there(world, arguments[0]):
                getattr(world, verb)(*arguments)


def _is_there(world: Simulation, index: int | None) -> bool:
    name = world.find(index)
    return name is not None and world.pods[name]["status"]["phase"] in ("Pending", "Running")


def _live_in_peace(world: Simulation) -> None:
    """From now on nothing fails: the job must end well."""
    for index in range(4):
        world.release(index)
    world.change(suspend=False)
    world.settle()
    for step in range(1, 100):
        world.wait(400)
        for index in list(world.uids()):
            if _is_there(world, index):
                world.run([index])
        world.report(100 + step, checkpoint=100 + step)
        world.settle()
        if world.status["phase"] == "Running" and not (world.status.get("elastic") or {}).get("absent"):
            break
    assert world.status["phase"] == "Running", world.status
    wanted = (world.job or {})["spec"]["worker"].get("replicas", 1)
    assert sorted(world.uids()) == list(range(wanted)), "exactly the wanted workers"
    for index in world.uids():
        world.end(index, 0, RESULTS if index == 0 else "")
    world.settle()
    world.wait(120)
    assert world.status["phase"] == "Succeeded", world.status


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(SPECS),
    st.lists(st.tuples(HAPPENINGS, st.sampled_from(["seen", "lost", "repeated", "killed"])), max_size=25),
)
def test_a_job_ends_well_whatever_happened_and_however_the_operator_learnt_of_it(
    spec: dict[str, Any], history: list[tuple[tuple[Any, ...], str]]
) -> None:
    world = Simulation(spec)
    world.settle()
    for happening, delivery in history:
        _happen(world, happening)
        match delivery:
            case "killed":
                world.reconcile(0)  # the status is written, and nothing is done about it
            case "repeated":
                world.reconcile(1)
                world.settle()
                world.settle()
            case "seen":
                world.settle()
        if delivery == "killed" and happening[0] == "wait":
            world.settle()  # the new operator looks at everything first
    _live_in_peace(world)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SPECS),
    st.lists(HAPPENINGS, max_size=15),
    st.lists(st.integers(0, 3), min_size=40, max_size=40),
)
def test_an_operator_that_is_killed_at_any_point_comes_to_the_same_end(
    spec: dict[str, Any], history: list[tuple[Any, ...]], deaths: list[int]
) -> None:
    steady, killed = Simulation(spec), Simulation(spec)
    steady.settle()
    # It dies after so many of a round's actions, again and again, and carries on a life later.
    cuts = iter(deaths * 20)
    killed.settle(lambda number: next(cuts) if number < 3 else None)
    for happening in history:
        _happen(steady, happening)
        steady.settle()
        _happen(killed, happening)
        killed.settle(lambda number: next(cuts) if number < 3 else None)
    assert killed.status == steady.status
    assert sorted(killed.uids()) == sorted(steady.uids())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPECS), st.lists(HAPPENINGS, max_size=15))
def test_seeing_the_same_again_changes_nothing(spec: dict[str, Any], history: list[tuple[Any, ...]]) -> None:
    world = Simulation(spec)
    world.settle()
    for happening in history:
        _happen(world, happening)
        world.settle()
        writes, uids = world.writes, world.uids()
        world.settle()
        assert (world.writes, world.uids()) == (writes, uids)
