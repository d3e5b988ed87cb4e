"""What of a detector torch may compile: methods whose operations follow from shapes and settings alone.

Such a method reads no value of a tensor, remembers nothing and draws nothing at random. The mark changes
nothing by itself: `training.compiling` compiles the methods that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

Varies = Literal["nothing", "sizes", "count"]
"""What differs between the calls of a method: nothing that is known beforehand; the last two dimensions of
its tensors, height and width; or their first one, a number of regions."""

_MARK = "kubedet_varies"

_Method = TypeVar("_Method", bound=Callable[..., Any])


def compilable(varies: Varies = "nothing") -> Callable[[_Method], _Method]:
    """Mark a method of a module. It takes and returns tensors, lists of them, modules and plain records."""

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, varies)
        return method

    return mark


def compilable_methods(module: nn.Module) -> Iterator[tuple[str, Varies]]:
    """The names of the marked methods of `module` itself, and what varies between their calls."""
    kind = type(module)
    for name in dir(kind):
        if (varies := getattr(getattr(kind, name, None), _MARK, None)) is not None:
            yield name, varies


def varying_dimensions(tensor: Tensor, varies: Varies) -> list[int]:
    """The dimensions of an argument that differ from call to call."""
    if varies == "sizes":
        return [tensor.dim() - 2, tensor.dim() - 1]
    return [0] if varies == "count" else []
