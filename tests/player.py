"""Plays scenarios in a world that is given: things happen there, and expectations are compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from builders import find_pod
from kubedet_operator.api import names
from scenario import Scenario

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class World(Protocol):
    """One job and its cluster. Beside these it has a method for every other verb of `scenario`."""

    @property
    def name(self) -> str:
        """Of the job."""

    @property
    def job(self) -> Mapping[str, Any] | None:
        """The manifest; None once it is deleted."""

    @property
    def pods(self) -> Mapping[str, Mapping[str, Any]]:
        """By name."""

    @property
    def others(self) -> Mapping[str, Mapping[str, Any]]:
        """Children that are no pods, by kind."""

    @property
    def writes(self) -> int:
        """Times that the status was written."""

    def has_service(self) -> bool:
        """Whether there is a Service by which the job's pods find each other."""

    def settle(self) -> None:
        """Return once the operator has done everything that it wants to do now."""

    def wait(self, seconds: float) -> None:
        """Let so much of the operator's time go by."""


class Player:
    """Carries the steps of one scenario out and compares."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.marked: dict[int, str] = {}
        self.writes = 0
        world.settle()

    def play_all(self, scenario: Scenario) -> None:
        """Play every step; the first that is not as expected is named in the error."""
        for step in scenario.steps:
            try:
                self.play(step)
            except AssertionError as error:
                raise AssertionError(f"{scenario.name}: {step}: {error}") from error

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
            self.marked = self._uids()
            self.writes = self.world.writes
        elif verb in ("run", "wait"):
            getattr(self.world, verb)(argument)
        else:
            getattr(self.world, verb)(**argument)

    def _expect(self, key: str, value: Any) -> None:
        world, status = self.world, dict((self.world.job or {}).get("status") or {})
        match key.split(" ", 2):
            case ["workers"]:
                found: Any = sorted(
                    index
                    for index, pod in self._workers().items()
                    if "deletionTimestamp" not in pod["metadata"]
                )
            case ["rendezvous"]:
                found = names.rendezvous_name(world.name) in world.pods
            case ["service"]:
                found = world.has_service()
            case ["gone"]:
                found = world.job is None
            case ["same"]:
                uids = self._uids()
                found = [index for index in value if uids.get(index) == self.marked[index]]
            case ["new"]:
                uids = self._uids()
                found = [index for index in value if uids.get(index) not in (None, self.marked[index])]
            case ["written", *_]:
                found = world.writes - self.writes
            case [""]:
                found = status
            case ["pod", index, what]:
                found = _look_at_pod(self._workers()[int(index)], what)
            case ["PodGroup", path]:
                found = _look(world.others["PodGroup"], path)
            case [kind] if kind[0].isupper():
                _check_condition(status, kind, value)
                return
            case _:
                found = _look(status, key)
        assert found == value, f"{key}: {status}"

    def _workers(self) -> dict[int, Mapping[str, Any]]:
        pods = self.world.pods
        labels = (pod["metadata"]["labels"] for pod in pods.values())
        indices = {int(of_pod[names.REPLICA_INDEX]) for of_pod in labels if names.REPLICA_INDEX in of_pod}
        found = {index: find_pod(pods, self.world.name, index) for index in indices}
        return {index: pods[name] for index, name in found.items() if name is not None}

    def _uids(self) -> dict[int, str]:
        return {index: pod["metadata"]["uid"] for index, pod in self._workers().items()}


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


def _look_at_pod(pod: Mapping[str, Any], what: str) -> Any:
    container = pod["spec"]["containers"][0]
    affinity = pod["spec"].get("affinity", {})
    match what.split(" "):
        case ["env", name]:
            value = next(item["value"] for item in container["env"] if item["name"] == name)
            return value.replace(pod["metadata"]["labels"][names.JOB_UID], "UID")
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
