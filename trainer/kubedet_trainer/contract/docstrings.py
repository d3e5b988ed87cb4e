"""Reads the docstrings below the fields of dataclasses, for the CRD and the reference pages."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache


@cache
def field_docstrings(target: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, by field name, those of its bases included."""
    found: dict[str, str] = {}
    for part in reversed(target.__mro__[:-1]):
        found |= _own_docstrings(part)
    return found


def _own_docstrings(target: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(target))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
