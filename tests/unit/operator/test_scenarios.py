"""Plays the table of scenarios on decisions alone, with a simulated cluster."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from kubedet_operator.api import names
from kubedet_trainer.contract import ExitCode
from scenario import Scenario
from scenarios import SCENARIOS
from simulation import Simulation

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class Driver:
    """Carries steps out and compares."""

    def __init__(self, scenario: Scenario) -> None:
        self.world = Simulation(scenario.spec)
        self.marked: dict[int, str] = {}
        self.writes = 0
        self.world.settle()

    def play(self, step: dict[str, Any]) -> None:
        ((verb, argument),) = step.items()
        if verb == "unseen":
            self._happen(*next(iter(argument.items())))
            return
        if verb == "expect":
            for key, value in argument.items():
                self._expect(key, value)
            return
        self._happen(verb, argument)
        if verb != "wait":
            self.world.settle()

    def _happen(self, verb: str, argument: Any) -> None:
        if verb == "mark":
            self.marked = self.world.uids()
            self.writes = self.world.writes
        elif verb == "reject":
            self.world.rejection = argument["message"]
        elif verb in ("run", "wait"):
            getattr(self.world, verb)(argument)
        else:
            getattr(self.world, verb)(**argument)

    def _expect(self, key: str, value: Any) -> None:
        world, status = self.world, self.world.status
        match key.split(" ", 2):
            case ["workers"]:
                alive = [
                    index
                    for index in sorted(world.uids())
                    if "deletionTimestamp" not in (world.worker(index) or {})["metadata"]
                ]
                found: Any = alive
            case ["rendezvous"]:
                found = names.rendezvous_name(world.name) in world.pods
            case ["gone"]:
                found = world.job is None
            case ["same"]:
                uids = world.uids()
                found = [index for index in value if uids.get(index) == self.marked[index]]
            case ["new"]:
                uids = world.uids()
                found = [index for index in value if uids.get(index) not in (None, self.marked[index])]
            case ["written", *_]:
                found = world.writes - self.writes
            case [""]:
                found = status
            case ["pod", index, what]:
                found = _look_at_pod(world.worker(int(index)) or {}, what)
            case ["PodGroup", path]:
                found = _look(world.others["PodGroup"], path)
            case [kind] if kind[0].isupper():
                _check_condition(status, kind, value)
                return
            case _:
                found = _look(status, key)
        assert found == value, f"{key}: {status}"


def _check_condition(status: dict[str, Any], kind: str, expected: str) -> None:
    condition = next(item for item in status["conditions"] if item["type"] == kind)
    holds, _, rest = expected.partition(" ")
    reason, _, text = rest.partition(" ")
    assert condition["status"] == holds, condition
    assert not reason or condition["reason"] == reason, condition
    assert text in condition["message"], condition


def _look(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document.get(part)
    return document


def _look_at_pod(pod: dict[str, Any], what: str) -> Any:
    container = pod["spec"]["containers"][0]
    affinity = pod["spec"].get("affinity", {})
    match what.split(" "):
        case ["env", name]:
            value = next(item["value"] for item in container["env"] if item["name"] == name)
            return value.replace(builders.UID, "UID")
        case ["label", name]:
            return pod["metadata"]["labels"].get(name)
        case ["annotation", name]:
            return pod["metadata"]["annotations"].get(name)
        case ["image"]:
            return container["image"]
        case ["forbidden"]:
            terms = affinity.get("nodeAffinity", {}).get(_REQUIRED, {}).get("nodeSelectorTerms", [{}])
            return [name for field in terms[0].get("matchFields", []) for name in field["values"]]
        case ["avoided"]:
            terms = affinity.get("nodeAffinity", {}).get(_PREFERRED, [])
            return [term["preference"]["matchFields"][0]["values"][0] for term in terms]
        case ["topology"]:
            terms = affinity.get("podAffinity", {}).get(_PREFERRED, [])
            return [term["podAffinityTerm"]["topologyKey"] for term in terms]
    return _look(pod, what)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_job_lives_as_expected(scenario: Scenario) -> None:
    driver = Driver(scenario)
    for step in scenario.steps:
        try:
            driver.play(step)
        except AssertionError as error:
            raise AssertionError(f"{scenario.name}: {step}: {error}") from error


def test_every_exit_code_has_a_scenario() -> None:
    played = {step["end"]["code"] for scenario in SCENARIOS for step in scenario.steps if "end" in step}
    assert played >= {code.value for code in ExitCode}


def test_names_of_scenarios_are_unique() -> None:
    found = [scenario.name for scenario in SCENARIOS]
    assert len(found) == len(set(found)) >= 80
    assert len({thread for scenario in SCENARIOS for thread in scenario.covers}) >= 40
