"""`compile: true` of a recipe: the marked methods of a detector as graphs of `torch.compile`.

Each method is a region that is compiled by itself (`models.compilable`). Assigners, sampling, pooling and
suppression stay between them as they are. A region has few graphs: one for each stage of a backbone, for
training and for detection, and for each number of images; heights and widths are variables of a graph.
Parameters keep their names, so that checkpoints are the same with and without.

The first graphs are made before the training begins, in a pass whose result nobody uses. No rank then waits
in a step for the compiler of another one. Whatever fails, the detector runs as it is.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kubedet_trainer import dist
from kubedet_trainer.config import Recipe
from kubedet_trainer.models.compilable import Varies, compilable_methods, varying_dimensions
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.telemetry import memory
from kubedet_trainer.training.counting import make_batch
from kubedet_trainer.training.device import AUTOCAST

BACKEND: str | Callable[..., Any] = "inductor"
"""Of `torch.compile`. Tests and rehearsals set one that needs no compiler."""
MOST_GRAPHS = 32
"""Of one method. A ResNet has four stages; each needs a graph to train, one to detect, and more where the
number of images differs. Methods of several equal heads count together."""

_NO_COMPILER = re.compile(r"\bC(\+\+)? compiler|InvalidCxxCompiler", re.ASCII)
_IMAGE = "the image needs gcc and g++ (docs/trainer-image.md#compile)"
_SWITCH = "compile: false trains the same without this message"

_TALKATIVE = ("torch._dynamo", "torch._functorch", "torch._inductor", "torch.fx", "torch.utils.cpp_extension")
"""Loggers of torch that repeat in many lines, up to CRITICAL, what is said here in one."""

_log = logging.getLogger(__name__)


class Compilation:
    """Whether a detector runs compiled."""

    def __init__(self) -> None:
        self.obstacle: str | None = None
        """Why it does not; None if it does."""
        self.seconds = 0.0
        """What the first graphs took."""

    def give_up(self, obstacle: str) -> None:
        """Run everything as it is from now on, and say so once."""
        if self.obstacle is None:
            self.obstacle = obstacle
            _log.warning("the detector runs without compilation: %s", obstacle)


def compile_detector(
    detector: Detector, recipe: Recipe, *, images: int, device: torch.device
) -> Compilation | None:
    """Compile `detector`, which is in training mode, if the recipe says so. Every rank must call this.

    Args:
        detector: on `device`.
        recipe: of the detector.
        images: of one pass of this rank.
        device: where the detector is.

    Returns:
        None where the recipe does not ask for it.
    """
    if not recipe.compile:
        return None
    _set_up_torch()
    compilation, started = Compilation(), time.monotonic()
    for path, module in detector.named_modules():
        for name, varies in list(compilable_methods(module)):
            region = _Region(
                getattr(module, name),
                name=f"{path}.{name}".removeprefix("."),
                varies=varies if varies != "sizes" or recipe.data.keep_aspect else "nothing",
                compilation=compilation,
            )
            setattr(module, name, region)
    _make_graphs(detector, recipe, images=images, device=device, compilation=compilation)
    [failed] = dist.maximum([float(compilation.obstacle is not None)])
    if failed:
        compilation.give_up("it failed on another rank, whose log says why")
    compilation.seconds = time.monotonic() - started
    if compilation.obstacle is None:
        _log.info("the detector runs compiled; its graphs took %.0f s", compilation.seconds)
    return compilation


def _set_up_torch() -> None:
    import torch._dynamo  # takes a second, and nothing else needs it
    import torch._functorch.config

    torch.compiler.reset()  # a process may train several detectors, one after the other
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    torch._dynamo.config.optimize_ddp = False  # it cuts graphs, and regions are parts already
    torch._functorch.config.force_non_lazy_backward_lowering = True  # else errors come in a backward pass
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # torch looks


class _Region:
    """A method that runs compiled, as long as that works."""

    def __init__(
        self, method: Callable[..., Any], *, name: str, varies: Varies, compilation: Compilation
    ) -> None:
        self._method = method
        self._compiled = torch.compile(method, fullgraph=True, backend=BACKEND)
        self._name = name
        self._varies = varies
        self._compilation = compilation
        self._is_full = False

    def __call__(self, *arguments: Any) -> Any:
        if self._compilation.obstacle is not None:
            return self._method(*arguments)
        for tensor in _tensors(arguments):
            torch._dynamo.maybe_mark_dynamic(tensor, varying_dimensions(tensor, self._varies))
        try:
            return self._compiled(*arguments)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            self._note_full()
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compilation.give_up(f"{self._name}: {_explain(error)}")
        return self._method(*arguments)

    def _note_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            message = "%s has %d graphs, as many as it may have; what fits none runs without compilation"
            _log.warning(message, self._name, MOST_GRAPHS)


def _tensors(arguments: Any) -> list[Tensor]:
    """The tensors among `arguments` and in lists of them."""
    found: list[Tensor] = []
    for value in arguments:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _make_graphs(
    detector: Detector, recipe: Recipe, *, images: int, device: torch.device, compilation: Compilation
) -> None:
    """Compile in a pass over the largest images, all black, that leaves no trace in the detector."""
    batch = make_batch(replace(recipe.data, images_per_process=images)).to(device)
    dtype = AUTOCAST[recipe.precision]
    statistics = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    try:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            losses = detector(batch.images, batch.targets, torch.Generator(device=device))
            total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch's
    except Exception as error:  # whatever it is: if compilation is not to blame, the first step says so
        compilation.give_up(_explain(error))
    with torch.no_grad():
        for name, buffer in detector.named_buffers():
            buffer.copy_(statistics[name])
    detector.zero_grad(set_to_none=True)
    memory.forget_peak(device)


def _explain(error: Exception) -> str:
    """The cause in one line, and the remedy."""
    cause = getattr(error, "inner_exception", error)
    line = next(iter(str(cause).strip().splitlines()), "")
    remedy = _IMAGE if _NO_COMPILER.search(f"{type(cause).__name__}: {cause}") else _SWITCH
    return f"{type(cause).__name__}: {line}; {remedy}"
