"""`compile: true`: graphs give what the detector gives without them, or the detector runs as it is.

Inductor takes a minute for the smallest detector. The others are compiled by ``eager`` or ``aot_eager``,
which make the same graphs and run them by PyTorch's own kernels; with ``KUBEDET_COMPILE_ALL=1`` inductor
compiles every architecture.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn.parallel import DistributedDataParallel

import trainer_builders
from kubedet_trainer import dist
from kubedet_trainer.config import Recipe, apply_overrides
from kubedet_trainer.models.compilable import compilable, compilable_methods
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Detections
from kubedet_trainer.training import compiling, loop
from kubedet_trainer.training.compiling import Compilation
from kubedet_trainer.training.device import AUTOCAST
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.snapshot import take_snapshot

CPU = torch.device("cpu")
STEPS = 3
IMAGES = 2
WITH_INDUCTOR = list(trainer_builders.SMALL) if os.environ.get("KUBEDET_COMPILE_ALL") else ["ssd"]

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and not os.environ.get("CI"), reason="inductor needs g++"
)


@pytest.fixture(autouse=True)
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Call it with the backend to compile with; without a call that is ``eager``."""

    def use_backend(backend: str | Callable[..., Any]) -> None:
        monkeypatch.setattr(compiling, "BACKEND", backend)

    use_backend("eager")
    yield use_backend
    torch.compiler.reset()


def _build(recipe: Recipe, *, compiled: bool) -> tuple[Detector, Compilation | None]:
    torch.manual_seed(0)
    detector = recipe.build(num_classes=4).train()
    trainer_builders.accept_any_score(detector)
    recipe = replace(recipe, compile=compiled)
    return detector, compiling.compile_detector(detector, recipe, images=IMAGES, device=CPU)


def _train(detector: Detector, recipe: Recipe, *, steps: int = STEPS) -> Iterator[tuple[list[float], float]]:
    """Train step by step; gives the losses of the two passes of each, and the norm of their gradient."""
    architecture, dtype = recipe.model.architecture, AUTOCAST[recipe.precision]
    learning = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    rate = recipe.optimizer.lr * recipe.schedule.warmup_ratio  # as a training begins
    optimizer = torch.optim.SGD(learning, lr=rate, momentum=0.9)
    for step in range(steps):
        terms = []
        optimizer.zero_grad()
        for number in range(2):
            images = trainer_builders.make_images(architecture, seed=number)
            objects = trainer_builders.TWO_OBJECTS
            targets = trainer_builders.make_targets([objects, objects[:1]], size=images.pixels.shape[2:])
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                losses = detector(images, targets, torch.Generator().manual_seed(step))
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
            terms += [value.item() for value in losses.values()]
        norm = torch.nn.utils.clip_grad_norm_(learning, 5.0).item()
        optimizer.step()
        yield terms, norm


def _detect(detector: Detector, architecture: str) -> list[Detections]:
    images = trainer_builders.make_images(architecture, seed=9)
    detector.eval()
    with torch.inference_mode():
        return detector.detect(images, torch.ones(len(images.pixels), 4))


def _assert_same(recipe: Recipe, *, within: float = 1e-4, steps: int = STEPS) -> None:
    """Train and detect with and without graphs."""
    plain, nothing = _build(recipe, compiled=False)
    assert nothing is None
    compiled, compilation = _build(recipe, compiled=True)
    assert compilation is not None
    assert compilation.obstacle is None
    both = zip(_train(compiled, recipe, steps=steps), _train(plain, recipe, steps=steps), strict=True)
    for (losses, norm), (expected, expected_norm) in both:
        assert losses == pytest.approx(expected, rel=within)
        assert norm == pytest.approx(expected_norm, rel=10 * within)
        # Rounding opens or closes a ReLU whose input is nearly zero; from then on the weights drift apart.
        compiled.load_state_dict(plain.state_dict())

    architecture = recipe.model.architecture
    pairs = zip(_detect(compiled, architecture), _detect(plain, architecture), strict=True)
    for own, other in pairs:
        assert len(other.scores) > 5
        torch.testing.assert_close(own.scores, other.scores, rtol=within, atol=1e-5)
        torch.testing.assert_close(own.boxes, other.boxes, rtol=within, atol=1e-2)
        if other.masks is not None:
            torch.testing.assert_close(own.masks, other.masks, rtol=within, atol=1e-4)
    assert compilation.obstacle is None


@pytest.mark.parametrize("architecture", ["cascade_mask_rcnn", "retinanet", "ssd"])
def test_detectors_with_every_marked_method_train_and_detect_in_graphs_as_without(architecture: str) -> None:
    _assert_same(trainer_builders.SMALL[architecture])


def test_fixed_statistics_and_deformable_layers_train_and_detect_in_graphs_as_without(
    use: Callable[[str], None],
) -> None:
    overrides = {
        "model.backbone.norm": "bn",
        "model.backbone.norm_eval": "true",
        "model.backbone.frozen_stages": "1",
        "model.backbone.deformable": "modulated",
        "model.box_roi.kind": "modulated",
    }
    use("aot_eager")
    _assert_same(apply_overrides(read_recipe("smoke_faster_rcnn"), overrides))


def test_a_step_in_bf16_is_in_graphs_as_without(use: Callable[[str], None]) -> None:
    use("aot_eager")
    _assert_same(apply_overrides(read_recipe("smoke_ssd"), {"precision": "bf16"}), within=1e-2, steps=1)


@needs_compiler
@pytest.mark.timeout(900)  # g++ compiles a file for each kernel
@pytest.mark.parametrize("architecture", WITH_INDUCTOR)
def test_kernels_of_inductor_train_and_detect_as_without(
    use: Callable[[str], None], architecture: str
) -> None:
    use("inductor")
    _assert_same(trainer_builders.SMALL[architecture])


def _obstacles(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def _assert_runs_as_it_is(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> str:
    """Train with a compilation that fails; returns the one line that says why."""
    plain, _ = _build(recipe, compiled=False)
    detector, compilation = _build(recipe, compiled=True)
    assert compilation is not None
    assert compilation.obstacle is not None
    assert list(_train(detector, recipe)) == list(_train(plain, recipe))
    (line,) = _obstacles(caplog)
    assert "\n" not in line
    assert line == f"the detector runs without compilation: {compilation.obstacle}"
    return line


@needs_compiler
def test_without_a_compiler_the_detector_runs_as_it_is_and_one_line_says_why(
    use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config
    import torch._inductor.cpu_vec_isa

    use("inductor")
    torch._inductor.cpu_vec_isa.pick_vec_isa()  # needs a compiler, but once; then the first kernel does
    caplog.clear()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/g++",))
    line = _assert_runs_as_it_is(read_recipe("smoke_ssd"), caplog)
    assert ": backbone.forward: " in line
    assert "the image needs gcc and g++ (docs/trainer-image.md#compile)" in line


def _fail(_graph: Any, _inputs: Any) -> Any:
    raise ValueError("no kernel for this\nand a long explanation")


def test_an_error_of_the_backend_is_told_in_one_line(
    use: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    use(_fail)
    line = _assert_runs_as_it_is(read_recipe("smoke_faster_rcnn"), caplog)
    assert ": backbone._stem: ValueError: no kernel for this; compile: false trains the same" in line


def test_an_error_of_the_backward_pass_is_told_with_its_region(
    use: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    use(aot_autograd(fw_compiler=lambda graph, _inputs: graph, bw_compiler=_fail))
    line = _assert_runs_as_it_is(read_recipe("smoke_ssd"), caplog)
    assert ": backbone.forward: ValueError: no kernel for this; " in line


def test_an_error_in_the_middle_of_a_training_lets_it_continue_as_it_is(
    use: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, graphs = read_recipe("smoke_ssd"), 0

    def fail_later(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph if graphs <= 2 else _fail(graph, inputs)  # backbone and head, to train

    use(fail_later)
    detector, compilation = _build(recipe, compiled=True)
    assert compilation is not None
    assert compilation.obstacle is None
    found = _detect(detector, "ssd")
    assert compilation.obstacle is not None
    (line,) = _obstacles(caplog)
    assert line.startswith("the detector runs without compilation: backbone.forward: ValueError: ")
    plain, _ = _build(recipe, compiled=False)
    for own, other in zip(found, _detect(plain, "ssd"), strict=True):
        assert torch.equal(own.scores, other.scores)


class _Peeking(nn.Module):
    """A method that has the mark though it reads a value."""

    @compilable()
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_what_torch_cannot_compile_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    recipe = read_recipe("smoke_ssd")
    detector = recipe.build(num_classes=4).train()
    forward = detector.bbox_head.forward  # type: ignore[union-attr]
    detector.peeking = peeking = _Peeking()

    def peek(sources: Sequence[Tensor]) -> Any:
        peeking(sources[0])
        return forward(sources)

    detector.bbox_head.forward = peek  # type: ignore[union-attr]
    compiling.compile_detector(detector, replace(recipe, compile=True), images=IMAGES, device=CPU)
    (line,) = _obstacles(caplog)
    assert line.startswith("the detector runs without compilation: peeking.forward: ")


def test_more_shapes_than_graphs_run_without_and_one_line_of_each_region_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "MOST_GRAPHS", 4)  # as many as the stages of the backbone need to train
    recipe = read_recipe("smoke_faster_rcnn")
    detector, compilation = _build(recipe, compiled=True)
    found = _detect(detector, "faster_rcnn") + _detect(detector, "faster_rcnn")
    assert compilation is not None
    assert compilation.obstacle is None
    plain, _ = _build(recipe, compiled=False)
    for own, expected in zip(found, _detect(plain, "faster_rcnn") * 2, strict=True):
        torch.testing.assert_close(own.boxes, expected.boxes, rtol=1e-4, atol=1e-2)
    (line,) = _obstacles(caplog)
    assert line == (
        "backbone._stage has 4 graphs, as many as it may have; what fits none runs without compilation"
    )


def _count_graphs(graphs: list[Any]) -> Callable[[Any, Any], Any]:
    def count(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    return count


def test_images_of_other_sizes_need_no_other_graph(use: Callable[[Any], None]) -> None:
    recipe, graphs = read_recipe("smoke_retinanet"), list[Any]()
    use(_count_graphs(graphs))
    detector, _ = _build(recipe, compiled=True)
    before = len(graphs)
    assert len(list(_train(detector, recipe))) == STEPS
    assert 0 < before == len(graphs)


def test_graphs_that_are_made_within_ddp_are_whole(
    use: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would cut them at the buckets of DDP, and older versions fail to cut functions of our own."""
    graphs, counts = list[Any](), list[int]()
    use(_count_graphs(graphs))
    monkeypatch.setattr(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 1000)
    for active in (None, SimpleNamespace(bucket_bytes_cap=2000)):
        monkeypatch.setattr(DistributedDataParallel, "_get_active_ddp_module", lambda active=active: active)
        graphs.clear()
        _, compilation = _build(read_recipe("smoke_ssd"), compiled=True)
        assert compilation is not None
        assert compilation.obstacle is None
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0


def test_all_ranks_run_without_compilation_where_one_must(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dist, "maximum", lambda _values: [1.0])
    _, compilation = _build(read_recipe("smoke_ssd"), compiled=True)
    assert compilation is not None
    assert compilation.obstacle == "it failed on another rank, whose log says why"
    assert len(_obstacles(caplog)) == 1


def test_making_graphs_leaves_no_trace_in_the_detector() -> None:
    overrides = {"model.backbone.norm": "bn", "model.backbone.norm_eval": "false"}
    recipe = apply_overrides(read_recipe("smoke_faster_rcnn"), overrides)
    torch.manual_seed(0)
    detector = recipe.build(num_classes=4).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    compilation = compiling.compile_detector(
        detector, replace(recipe, compile=True), images=IMAGES, device=CPU
    )
    assert compilation is not None
    assert compilation.obstacle is None
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_checkpoints_continue_with_and_without_compilation(make_run: Callable[..., Run]) -> None:
    states, losses = [], []
    for first, then in (("false", "true"), ("true", "false")):
        run = make_run(name=f"checkpoints-{first}", compile=first)
        loop._step(run, run.batches(end_iteration=1).__iter__())
        saved = run.checkpointer.save(take_snapshot(run.state, epoch=0))
        run = make_run(name=f"checkpoints-{first}", resume=saved.latest, compile=then)
        assert (run.state.iteration, run.compilation is not None) == (1, then == "true")
        states.append(run.state.model.state_dict())
        loop._step(run, run.batches(end_iteration=2).__iter__())
        (interval,) = run.monitor.close_interval(2, is_last=True)
        losses.append(interval.means)
    assert list(states[0]) == list(states[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_backbone_neck_and_heads_have_the_mark() -> None:
    detector = read_recipe("smoke_mask_rcnn").build(num_classes=4)
    marked = {type(module).__name__ for module in detector.modules() if list(compilable_methods(module))}
    assert marked == {"ResNet", "Fpn", "RpnHead", "BoxHead", "MaskHead"}
