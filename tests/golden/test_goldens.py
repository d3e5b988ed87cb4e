"""Our detectors against the numbers of the 2019 code, from features to gradients."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2  # noqa: F401 (it and torchvision set environment variables when first imported)
import pytest

import kubedet_trainer.models  # noqa: F401

ADAPTER = Path(__file__).with_name("adapter.py")
ARCHITECTURES = (
    "cascade_rcnn_r50_fpn",
    "fast_rcnn_r50_fpn",
    "faster_rcnn_dconv_c3-c5_r50_fpn",
    "faster_rcnn_dpool_r50_fpn",
    "faster_rcnn_mdconv_c3-c5_r50_fpn",
    "faster_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn_gn",
    "retinanet_r50_fpn",
    "rpn_r50_fpn",
    "ssd300_coco",
)


@pytest.fixture(scope="module")
def checker(shared: Path) -> ModuleType:
    """The specification's own checker; the millions of weights that it draws again and again are kept."""
    spec = importlib.util.spec_from_file_location("golden_checker", shared / "spec/goldens/check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["golden_weight"] = functools.cache(vars(module)["golden_weight"])
    return module


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_detector_reproduces_the_goldens(
    checker: ModuleType,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["check.py", "--adapter", str(ADAPTER), "--arch", architecture])
    monkeypatch.setitem(sys.modules, "adapter", None)

    with pytest.raises(SystemExit) as ending:
        checker.main()

    report = capsys.readouterr().out
    assert ending.value.code == 0, report
    assert " 0 failed" in report
