"""A recipe that only a ConfigMap has trains on a real node, by the page that says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import markdown
from cluster_jobs import NAMESPACE, is_complete, status_of, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

IMAGE = "kubedet-trainer:e2e"


def _job(text: str) -> str:
    """The page's job, with the image of the tests, torch from its volume, and a short training."""
    job = yaml.safe_load(text)
    job["metadata"]["namespace"] = NAMESPACE
    spec, worker = job["spec"], job["spec"]["worker"]
    spec |= {
        "overrides": {"schedule.epochs": "1", "data.num_workers": "0"},
        "dataset": {"storageUri": "synthetic://shapes?images=16&val_images=4&size=160x120"},
    }
    worker |= {"image": IMAGE, "imagePullPolicy": "IfNotPresent", "sharedMemory": "512Mi"}
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    (variable,) = container["env"]
    variable["value"] = f"/opt/torch:{variable['value']}"
    container["volumeMounts"].append({"name": "torch", "mountPath": "/opt/torch", "readOnly": True})
    pod["volumes"].append({
        "name": "torch",
        "persistentVolumeClaim": {"claimName": "torch", "readOnly": True},
    })  # fmt: skip
    return str(yaml.safe_dump(job))


def test_a_recipe_from_a_config_map_trains_on_a_real_node(operator: Any, tmp_path: Path) -> None:
    files = {block.file: block.text for block in markdown.read_page("docs/users/own-recipe.md").blocks}
    (tmp_path / "my_recipes.py").write_text(files["my_recipes.py"])
    source = f"--from-file={tmp_path / 'my_recipes.py'}"

    operator.kubectl("create", "configmap", "my-recipes", source, "-n", NAMESPACE)
    operator.apply(_job(files["own.yaml"]))
    wait_for(lambda: is_complete(operator, "own"), 600, "row of the recipe")

    row = status_of(operator, "own")["results"]
    assert row["recipe"] == "my_recipes:careful"
    assert row["boxAP"] >= 0
