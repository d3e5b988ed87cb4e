"""What the operator says about a job's recipe, and about which jobs it says nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import builders
from kubedet_operator import recipes
from kubedet_operator.settings import OperatorSettings

VERSION = version("kubedet")
SETTINGS = OperatorSettings()


@pytest.mark.parametrize(
    ("image", "is_ours"),
    [
        (None, True),
        (f"registry:5000/team/kubedet-trainer:{VERSION}", True),
        (f"kubedet-trainer:{VERSION}@sha256:{'0' * 64}", True),
        (f"registry:5000/kubedet-trainer@sha256:{'0' * 64}", False),
        ("registry:5000/kubedet-trainer", False),
        (f"kubedet-trainer:{VERSION}-ours", False),
        ("kubedet-trainer:latest", False),
    ],
)
def test_only_images_of_this_version_are_judged(image: str | None, is_ours: bool) -> None:
    manifest = builders.make_manifest(recipe="smoke_fastr_rcnn", worker={"image": image} if image else {})
    fault = recipes.parse_spec(manifest, SETTINGS).fault
    assert (fault is not None) == is_ours


def test_the_operators_own_image_counts_where_the_job_names_none() -> None:
    manifest = builders.make_manifest(recipe="smoke_fastr_rcnn")
    other = OperatorSettings(trainer_image="registry/kubedet-trainer:9.9.9")
    assert recipes.parse_spec(manifest, other).fault is None


def test_a_recipe_of_the_users_own_is_not_imported() -> None:
    job = builders.make_job(recipe="no_such_module:recipe", overrides={"no.such": "1"})
    assert recipes.find_fault(job.spec) is None


def test_weights_that_nobody_published_must_be_given_to_be_measured() -> None:
    caffe: dict[str, Any] = {"recipe": "rpn_r50_caffe_fpn_1x", "task": "Measure"}
    assert recipes.find_fault(builders.make_job(**caffe).spec) == (
        "spec.pretrained: absent, must be set to measure rpn_r50_caffe_fpn_1x: the zoo published no weights "
        "for it"
    )
    given = builders.make_job(**caffe, pretrained={"storageUri": "s3://weights/rpn.pth"})
    assert recipes.find_fault(given.spec) is None
    assert recipes.find_fault(builders.make_job(recipe="rpn_r50_fpn_1x", task="Measure").spec) is None


def test_a_spec_that_cannot_be_read_has_no_recipe_to_judge() -> None:
    parsed = recipes.parse_spec(builders.make_manifest(recipee="x"), SETTINGS)
    assert parsed.job is None
    assert parsed.fault is None


def test_the_operator_imports_the_recipes_without_torch() -> None:
    program = (
        "import sys, kubedet_operator.__main__; print({'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules), "
        "'kubedet_trainer.recipes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() True"
