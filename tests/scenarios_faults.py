"""Scenarios: requests of the operator that fail, and what it does then."""

from __future__ import annotations

from scenario import TWO, Scenario, crash

FAULTS = [
    Scenario(
        name="a refused pod is told of and tried again",
        covers=("dask/dask-kubernetes#975",),
        spec={},
        steps=[
            {"run": [0]},
            {"reject": {"message": "exceeded quota"}},
            crash(),
            {"wait": 1},
            {"expect": {"Degraded": "True ChildRejected exceeded quota", "workers": []}},
            {"reject": {"message": None}},
            {"wait": 60},
            {"expect": {"Degraded": "False", "workers": [0], "restarts.total": 1}},
        ],
    ),
    Scenario(
        name="a change that comes while the status is written is not lost",
        spec={"worker": TWO, "backoffLimit": 0},
        steps=[
            {"run": [0, 1]},
            {"unseen": {"change": {"backoffLimit": 2}}},
            crash(1),
            {"wait": 2},
            {"expect": {"workers": [0, 1], "restarts.application": 1, "Failed": "False"}},
        ],
    ),
    Scenario(
        name="nothing is written or done while nothing happens",
        covers=("dask/dask-kubernetes#810",),
        spec={"worker": TWO},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            {"wait": 86400},
            {"expect": {"same": [0, 1], "written since the mark": 0}},
        ],
    ),
    Scenario(
        name="a lost event is made up for by the next one",
        covers=("ray-project/kuberay#3903", "dask/dask-kubernetes#592"),
        spec={"worker": TWO, "backoffLimit": 9},
        steps=[
            {"unseen": {"run": [0, 1]}},
            {"unseen": crash(1)},
            {"wait": 700},
            {"expect": {"workers": [0, 1], "restarts.application": 1}},
        ],
    ),
]
