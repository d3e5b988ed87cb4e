"""Plays the table of scenarios on decisions alone, with a simulated cluster."""

from __future__ import annotations

import pytest

from kubedet_trainer.contract import ExitCode
from player import Player
from scenario import Scenario
from scenarios import SCENARIOS
from simulation import Simulation


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_job_lives_as_expected(scenario: Scenario) -> None:
    Player(Simulation(scenario.spec)).play_all(scenario)


def test_every_exit_code_has_a_scenario() -> None:
    played = {step["end"]["code"] for scenario in SCENARIOS for step in scenario.steps if "end" in step}
    assert played >= {code.value for code in ExitCode}


def test_names_of_scenarios_are_unique() -> None:
    found = [scenario.name for scenario in SCENARIOS]
    assert len(found) == len(set(found)) >= 80
    assert len({thread for scenario in SCENARIOS for thread in scenario.covers}) >= 40
