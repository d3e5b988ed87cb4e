"""Scenarios: what a person may correct before a worker has trained, and what becomes of the job."""

from __future__ import annotations

from scenario import STATE, TWO, Scenario, crash, done, failure

CORRECTIONS = [
    Scenario(
        name="a wrong recipe is refused without any pod, and trains once it is corrected",
        spec={"recipe": "smoke_fastr_rcnn", "worker": TWO},
        steps=[
            {
                "expect": {
                    "Failed": "True InvalidSpec spec.recipe: got 'smoke_fastr_rcnn', must be one that "
                    "`kubedet recipes` lists, or module:attribute for one of your own. "
                    "Did you mean 'smoke_faster_rcnn'?",
                    "workers": [],
                    "rendezvous": False,
                    "service": False,
                    "startTime": None,
                    "reason": "InvalidSpec",
                }
            },
            {"wait": 300},
            {"change": {"recipe": "smoke_faster_rcnn"}},
            {"expect": {"Failed": "False NotFailed", "workers": [0, 1], "completionTime": None}},
            {"run": [0, 1]},
            {"expect": {"phase": "Running", "attempt": 0}},
            {"report": {"iteration": 500}},
            done(),
            crash(1, 0),
            {"expect": {"phase": "Succeeded", "reason": None}},
        ],
    ),
    Scenario(
        name="a wrong override is refused without any pod",
        spec={"overrides": {"data.scal": "640,480"}},
        steps=[
            {
                "expect": {
                    "Failed": "True InvalidSpec spec.overrides.data.scal: got '640,480', must be a field of "
                    "the recipe. Did you mean 'data.scale'?",
                    "workers": [],
                }
            },
            {"change": {"overrides": {"data.scal": None, "data.scale": "480,640"}}},
            {
                "expect": {
                    "Failed": "True InvalidSpec spec.overrides.data.scale: got (480, 640), must be (longest",
                    "workers": [],
                }
            },
            {"change": {"overrides": {"data.scale": "640,480"}}},
            {"expect": {"Failed": "False", "workers": [0]}},
        ],
    ),
    Scenario(
        name="another image may know other recipes",
        spec={"recipe": "recipe_of_tomorrow", "worker": {"image": "registry/kubedet-trainer:9.9.9"}},
        steps=[{"expect": {"Failed": "False", "workers": [0]}}],
    ),
    Scenario(
        name="only the worker can judge a recipe of the user's own",
        spec={"recipe": "my_package.recipes:small", "overrides": {"no.such": "1"}},
        steps=[
            {"run": [0]},
            crash(code=65, message=failure(65, "InvalidInput", "recipe: my_package.recipes:small fails")),
            {"expect": {"Failed": "True PermanentFailure my_package.recipes:small fails"}},
            {"wait": 60},
            {"mark": None},
            {"change": {"recipe": "my_package.recipes:smaller", "overrides": {"no.such": None}}},
            {"expect": {"Failed": "False NotFailed", "new": [0], "attempt": 1}},
            {"expect": {"pod 0 env KUBEDET_RECIPE": "my_package.recipes:smaller"}},
            {"run": [0]},
            done(),
            {"expect": {"Complete": "True Trained", "restarts.total": 0}},
        ],
    ),
    Scenario(
        name="workers that have not trained yet are replaced when the data set is corrected",
        spec={"worker": TWO, "checkpoint": STATE},
        steps=[
            {"run": [0, 1]},
            {"mark": None},
            {"change": {"dataset": {"storageUri": "synthetic://shapes?images=8"}}},
            {"expect": {"new": [0, 1], "attempt": 1, "phase": "Initializing", "restarts.total": 0}},
            {"expect": {"pod 0 env KUBEDET_DATASET_URI": "synthetic://shapes?images=8"}},
            {"run": [0, 1]},
            {"mark": None},
            {"change": {"backoffLimit": 9}},
            {"expect": {"same": [0, 1], "attempt": 1}},
        ],
    ),
]
