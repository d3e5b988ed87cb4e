"""`kubedet render`, `run`, `explain` and `crds` from the outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from builders import make_manifest
from kubedet_operator.api import schema
from kubedet_operator.commands import explain, jobs
from kubedet_trainer.config.overrides import list_leaves
from kubedet_trainer.recipes import RECIPES, read_recipe
from zoo_simulation import make_zoo


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(worker={"replicas": 2})))
    return path


@pytest.fixture
def own_recipes(tmp_path: Path) -> Path:
    """A folder with a module of recipes."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from kubedet_trainer.config import Recipe\n"
        "from kubedet_trainer.recipes.smoke import smoke_rpn\n"
        "def small() -> Recipe:\n"
        "    return smoke_rpn()\n"
        "def wrong() -> Recipe:\n"
        "    return replace(smoke_rpn(), seed=-1)\n"
    )
    return folder


def test_render_prints_what_the_operator_would_create(job_file: Path) -> None:
    result = CliRunner().invoke(jobs.render, [str(job_file), "--namespace", "team-a"])
    children = list(yaml.safe_load_all(result.stdout))
    assert [child["kind"] for child in children] == ["Service", "Pod", "Pod", "Pod"]
    assert {child["metadata"]["namespace"] for child in children} == {"team-a"}
    assert not any("ownerReferences" in child["metadata"] for child in children)


def test_render_knows_the_operators_image(job_file: Path) -> None:
    result = CliRunner().invoke(
        jobs.render, [str(job_file)], env={"KUBEDET_OPERATOR_TRAINER_IMAGE": "registry/trainer:9"}
    )
    assert result.stdout.count("image: registry/trainer:9") == 3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"recipe": "smoke_fastr_rcnn"},
            r"spec\.recipe: got 'smoke_fastr_rcnn', must be .* Did you mean 'smoke_faster_rcnn'\?",
        ),
        (
            {"overrides": {"optimizer.rate": "1"}},
            r"spec\.overrides\.optimizer\.rate: got '1', must be a field of the recipe\. "
            r"Did you mean 'optimizer\.lr'\?",
        ),
        (
            {"overrides": {"model.box_head.num_fcs": "0"}},
            r"spec\.overrides\.model\.box_head\.num_fcs: got 0, must be >= 1",
        ),
        ({"recipe": "mine:wrong"}, r"spec\.recipe: mine:wrong breaks a rule: seed: got -1, must be >= 0"),
        ({"recipe": "mine:smll"}, r"spec\.recipe: got 'mine:smll', must be .* Did you mean 'small'\?"),
        ({"recipe": "mine:small", "overrides": {"seed": "x"}}, r"spec\.overrides\.seed: got 'x', must be .*"),
    ],
)
def test_render_refuses_a_recipe_that_the_trainer_would_refuse(
    tmp_path: Path, own_recipes: Path, changes: dict[str, Any], line: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(**changes)))

    result = CliRunner().invoke(jobs.render, [str(path)], env={"PYTHONPATH": str(own_recipes)})

    assert result.exit_code == 65
    assert re.fullmatch(line, result.stderr.strip())
    assert result.stdout == ""


def test_render_says_what_the_training_of_a_job_on_gpus_needs(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(recipe="ssd300_voc", worker={"replicas": 1, "gpus": 8})))

    result = CliRunner().invoke(jobs.render, [str(path)])

    assert result.exit_code == 0
    assert re.fullmatch(
        r"Estimate: a GPU needs about 1\.\d GiB for 4 images at a time, 0\.9 GiB of it tensors; "
        r"a checkpoint takes 0\.\d+ GiB; hours on paper, at least, with 8 x GPU: "
        r"[\d.]+ on V100, .*, [\d.]+ on B200\n",
        result.stderr,
    )


def test_render_names_the_command_that_estimates_what_is_not_known_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    overrides = {"data.scale": "640,480"}
    path.write_text(
        yaml.safe_dump(
            make_manifest(recipe="ssd300_voc", overrides=overrides, worker={"replicas": 2, "gpus": 4})
        )
    )

    result = CliRunner().invoke(jobs.render, [str(path)])

    assert result.stderr == (
        "Estimate: `kubedet estimate ssd300_voc data.scale=640,480 --gpus 8` foretells memory and time\n"
    )


@pytest.mark.parametrize("gpus", [0, 1])
def test_render_estimates_nothing_on_cpus_and_no_recipe_of_ones_own(
    tmp_path: Path, own_recipes: Path, gpus: int
) -> None:
    path = tmp_path / "job.yaml"
    worker = {"replicas": 1, "gpus": gpus}
    recipe = "mine:small" if gpus else "ssd300_voc"
    path.write_text(yaml.safe_dump(make_manifest(recipe=recipe, worker=worker)))

    result = CliRunner().invoke(jobs.render, [str(path)], env={"PYTHONPATH": str(own_recipes)})

    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("image", ["registry/kubedet-trainer:9.9.9", "kubedet-trainer@sha256:" + "0" * 64])
def test_render_warns_where_an_image_of_another_version_may_know_the_recipe(
    tmp_path: Path, image: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(recipe="smoke_fastr_rcnn", worker={"image": image})))

    result = CliRunner().invoke(jobs.render, [str(path)])

    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: spec.recipe: got 'smoke_fastr_rcnn', must be one that")
    assert result.stderr.endswith("spec.worker.image is of another version: the worker checks the recipe\n")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"recipe": "smoke_fastr_rcnn"}, "spec.recipe: got 'smoke_fastr_rcnn', must be one that "),
        ({"overrides": {"data.scal": "9,9"}}, "spec.overrides.data.scal: got '9,9', must be a field of the "),
        (
            {"overrides": {"seed": "x"}, "worker": {"image": "x:9"}},
            "spec.overrides.seed: got 'x', must be ",
        ),
    ],
)
def test_run_refuses_a_wrong_recipe_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(**changes)))

    result = CliRunner().invoke(jobs.run, [str(path), "--output", str(tmp_path / "out")])

    assert result.exit_code == 65
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_here", [True, False])
def test_render_checks_a_recipe_of_ones_own_if_its_module_is_here(
    tmp_path: Path, own_recipes: Path, is_here: bool
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(recipe="mine:small")))

    result = CliRunner().invoke(
        jobs.render, [str(path)], env={"PYTHONPATH": str(own_recipes) if is_here else ""}
    )

    assert result.exit_code == 0
    assert "value: mine:small" in result.stdout
    warning = "" if is_here else "Warning: spec.recipe: there is no module 'mine' here, must be"
    assert result.stderr.startswith(warning)
    assert bool(result.stderr) != is_here


@pytest.mark.parametrize("command", [jobs.render, jobs.run])
def test_an_invalid_job_ends_with_65_and_every_violation(tmp_path: Path, command: click.Command) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(recpe="x", worker={"replicas": 0})))
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 65
    assert result.stderr.splitlines() == [
        "spec.recpe: got 'x', there is no such field. Did you mean 'recipe'?",
        "spec.worker.replicas: got 0, must be from 1 to 1000",
    ]


def test_run_without_its_secret_ends_with_66(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_manifest(dataset={"secretRef": {"name": "minio"}})))
    result = CliRunner().invoke(jobs.run, [str(path), "--output", str(tmp_path)])
    assert result.exit_code == 66
    assert "Secret minio: absent" in result.stderr


@pytest.mark.parametrize("command", [jobs.render, jobs.run])
def test_a_missing_file_is_a_usage_error(command: click.Command) -> None:
    result = CliRunner().invoke(command, ["nowhere.yaml"])
    assert result.exit_code == 2
    assert "nowhere.yaml" in result.stderr


def test_crds_prints_both_crds() -> None:
    printed = yaml.safe_load_all(CliRunner().invoke(jobs.crds).stdout)
    assert list(printed) == [schema.build_crd(schema.JOB), schema.build_crd(schema.ZOO)]


def test_render_prints_the_jobs_of_a_zoo_and_names_whose_proposals_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump(make_zoo(rows={"recipes": ["fast_rcnn_r50_fpn_1x", "rpn_r50_fpn_1x"]})))
    result = CliRunner().invoke(jobs.render, [str(path), "--namespace", "team-a"])
    assert result.exit_code == 0, result.stderr
    rpn, fast = yaml.safe_load_all(result.stdout)
    assert (rpn["kind"], rpn["metadata"]["namespace"]) == ("DetectionJob", "team-a")
    assert rpn["spec"]["writeProposals"] is True
    assert fast["spec"]["dataset"]["proposals"] == {"fromJob": rpn["metadata"]["name"]}


def test_render_refuses_a_zoo_with_every_violation(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump(make_zoo(rows={"recipes": ["x", "y"]})))
    result = CliRunner().invoke(jobs.render, [str(path)])
    assert result.exit_code == 65
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "spec.rows.recipes[0]",
        "spec.rows.recipes[1]",
    ]


def test_render_checks_the_overrides_of_a_row(tmp_path: Path) -> None:
    change = {"recipe": "retinanet_r50_fpn_1x", "spec": {"overrides": {"optimizer.rate": "1"}}}
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump(make_zoo(changes=[change])))
    result = CliRunner().invoke(jobs.render, [str(path)])
    assert result.exit_code == 65
    assert "optimizer.rate: got '1', must be a field of the recipe" in result.stderr


def test_explain_knows_the_fields_of_a_zoo_and_of_its_template() -> None:
    result = CliRunner().invoke(jobs.explain, ["zoo.spec.repeats"])
    assert result.stdout.splitlines()[0] == "spec.repeats <integer>  default: 1; >= 1; <= 10"
    assert CliRunner().invoke(jobs.explain, ["zoo"]).stdout.startswith("ModelZoo <object>")
    deep = CliRunner().invoke(jobs.explain, ["zoo.spec.template.spec.worker.replicas"])
    assert "Number of worker pods" in deep.stdout
    wrong = CliRunner().invoke(jobs.explain, ["zoo.spec.row"])
    assert wrong.stderr.strip() == "zoo.spec.row: no such field; did you mean 'spec.rows'?"


def test_local_mode_imports_neither_torch_nor_a_kubernetes_client() -> None:
    program = (
        "import sys, kubedet_operator.commands.jobs, kubedet_operator.local.run, kubedet_operator.recipes; "
        "print({'torch', 'kopf', 'kubernetes', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_explain_says_what_a_field_is_for_and_what_it_may_be() -> None:
    result = CliRunner().invoke(jobs.explain, ["dj.spec.worker.replicas"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "spec.worker.replicas <integer>  default: 1; >= 1; <= 1000"
    assert "Number of worker pods" in result.stdout


def test_explain_lists_the_fields_of_an_object_and_its_rules() -> None:
    result = CliRunner().invoke(jobs.explain, ["spec.checkpoint"])
    assert "storageUri <string>  required; characters >= 1" in result.stdout
    assert result.stdout.count("intervalSeconds or intervalIterations, not both") == 1


def test_explain_knows_every_field_of_the_schema() -> None:
    def walk(found: dict[str, Any], path: str) -> Iterator[str]:
        for name, inner in found.get("items", found).get("properties", {}).items():
            yield f"{path}{name}"
            yield from walk(inner, f"{path}{name}.")

    for path in walk(schema.build_schema(), ""):
        assert explain.explain(path, width=80).startswith(path)


def test_explain_names_the_nearest_field_to_a_wrong_one() -> None:
    result = CliRunner().invoke(jobs.explain, ["spec.worker.replica"])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "spec.worker.replica: no such field; did you mean 'spec.worker.replicas'?"
    )


def test_explain_lists_the_defaults_of_the_fields_of_an_object() -> None:
    result = CliRunner().invoke(jobs.explain, ["spec.worker"])
    assert "  replicas <integer>  default: 1; >= 1; <= 1000\n" in result.stdout


def test_explain_lists_every_field_of_every_recipe() -> None:
    shown = CliRunner().invoke(jobs.explain, ["spec.overrides"]).stdout
    listed = set(re.findall(r"^  ([a-z][\w.]+) <", shown, re.MULTILINE))
    known = {leaf.path for name in RECIPES for leaf in list_leaves(read_recipe(name))}
    assert listed == known
    assert "  data.scale <list of 2 whole numbers>  default: 1333,800; 300,300; 512,512; >= 1\n" in shown
    assert "  precision <fp32 | tf32 | bf16 | fp16>  default: tf32\n" in shown


def test_explain_describes_one_field_of_recipes_and_its_detectors() -> None:
    shown = CliRunner().invoke(jobs.explain, ["spec.overrides.model.ssd_head.negatives_per_positive"]).stdout
    assert shown.count(" <whole number>") == 1
    assert "The worst classified negatives" in shown
    assert "Detectors: ssd." in shown
    shown = CliRunner().invoke(jobs.explain, ["spec.overrides.model.neck.channels"]).stdout
    assert "Detectors: all but ssd." in shown


def test_explain_names_the_nearest_field_of_recipes_to_a_wrong_one() -> None:
    result = CliRunner().invoke(jobs.explain, ["spec.overrides.data.scal"])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "spec.overrides.data.scal: no such field; did you mean 'spec.overrides.data.scale'?"
    )
