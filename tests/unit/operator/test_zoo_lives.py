"""Whatever happens to a zoo, in whatever order the operator learns of it: the rules of `ZooSimulation` hold.

Events are lost, repeated, late and in another order, and the operator dies after any action. In the end every
row has its figures, and nothing is trained again.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kubedet_operator.decision.zoo.plan import CreateJob, DeleteZoo
from zoo_simulation import ZooSimulation, has_ended

ROWS = ["rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x", "retinanet_r50_fpn_1x", "ssd300_coco"]
CHANGE = {"recipe": "retinanet_r50_fpn_1x", "spec": {"overrides": {"optimizer.lr": "0.02"}}}
SPECS: list[dict[str, Any]] = [
    {},
    {"parallelism": 2},
    {"parallelism": 3, "repeats": 2},
    {"parallelism": 3, "changes": [{"recipe": "rpn_r50_fpn_1x", "repeats": 2}]},
    {"parallelism": 4, "failurePolicy": "Stop"},
]
HAPPENINGS = st.one_of(
    st.tuples(st.sampled_from(["succeed", "fail", "delete", "learn"]), st.integers(0, 7)),
    st.tuples(st.just("decide"), st.integers(0, 4)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.sampled_from(["suspend", "override", "parallelism"]), st.integers(1, 3)),
)


class _Operator:
    """An operator that knows of each job what it has last heard; what it creates itself it knows at once."""

    def __init__(self, world: ZooSimulation) -> None:
        self.world = world
        self.known: dict[str, dict[str, Any]] = {}

    def learn(self, name: str) -> None:
        """One event arrives: of several the last one counts, and it may come again."""
        if name in self.world.jobs:
            self.known[name] = copy.deepcopy(self.world.jobs[name])
        else:
            self.known.pop(name, None)

    def learn_all(self) -> None:
        """A complete list, as after a restart."""
        self.known = copy.deepcopy(self.world.jobs)

    def decide(self, survives: int) -> None:
        """One round by what is known, of which so many actions happen."""
        world = self.world
        plan = world.plan(self.known)
        assert world.zoo is not None
        world.zoo["status"] = copy.deepcopy(dict(plan.status))
        world.check_rules()
        for action in plan.actions[:survives]:
            assert not isinstance(action, DeleteZoo)
            world.carry_out(action)
            if isinstance(action, CreateJob):
                self.learn(action.manifest["metadata"]["name"])


def _happen(world: ZooSimulation, operator: _Operator, what: str, number: int) -> None:
    assert world.zoo is not None
    names = sorted(world.jobs.keys() | operator.known.keys())
    name = names[number % len(names)] if names else ""
    if what == "decide":
        operator.decide(number)
    elif what == "restart":
        operator.learn_all()
    elif what == "suspend":
        world.change(suspend=not world.zoo["spec"].get("suspend", False))
    elif what == "override":
        world.change(changes=[] if world.zoo["spec"].get("changes") else [CHANGE])
    elif what == "parallelism":
        world.change(parallelism=number)
    elif what == "learn":
        operator.learn(name)
    elif name in world.jobs and what == "delete":
        del world.jobs[name]
    elif name in world.jobs and not has_ended(world.jobs[name]):
        given_names = world.jobs[name]["metadata"]["annotations"]
        recipe, seed = given_names["kubedet.dev/zoo-recipe"], int(given_names["kubedet.dev/zoo-seed"])
        if what == "succeed":
            world.succeed(recipe, seed, boxAP=35.0)
        else:
            world.fail(recipe, seed)


def _finish(world: ZooSimulation, operator: _Operator) -> None:
    """All is well from now on: nothing is suspended, failed jobs are tried again, and all succeed."""
    world.change(suspend=False)
    for _ in range(40):
        operator.learn_all()
        operator.decide(99)
        for name, job in list(world.jobs.items()):
            failed = any(item["type"] == "Failed" for item in job["status"].get("conditions", ()))
            if failed:
                del world.jobs[name]
            elif not has_ended(job):
                notes = job["metadata"]["annotations"]
                world.succeed(notes["kubedet.dev/zoo-recipe"], int(notes["kubedet.dev/zoo-seed"]), boxAP=35.0)
    operator.learn_all()


@settings(deadline=None, max_examples=150)
@given(spec=st.sampled_from(SPECS), history=st.lists(HAPPENINGS, max_size=40))
def test_every_life_of_a_zoo_ends_with_its_table(
    spec: dict[str, Any], history: list[tuple[str, int]]
) -> None:
    world = ZooSimulation(rows={"recipes": ROWS}, **spec)
    operator = _Operator(world)
    for what, number in history:
        _happen(world, operator, what, number)
    _finish(world, operator)
    assert {row["recipe"]: row["phase"] for row in world.status["rows"]} == dict.fromkeys(ROWS, "Succeeded")
    assert {row["recipe"] for row in world.status["rows"] if not row["means"]} == set()
    trained, status = world.trained.copy(), world.status
    world.settle()
    assert (world.trained, world.status) == (trained, status)


@settings(deadline=None, max_examples=30)
@given(history=st.lists(HAPPENINGS, max_size=20))
def test_a_changed_override_trains_that_row_alone_whatever_happened_before(
    history: list[tuple[str, int]],
) -> None:
    world = ZooSimulation(rows={"recipes": ROWS}, parallelism=4)
    operator = _Operator(world)
    for what, number in history:
        _happen(world, operator, what, number)
    world.change(changes=[])
    _finish(world, operator)
    world.change(changes=[CHANGE])
    world.settle()
    assert world.active() == {CHANGE["recipe"]}
