"""Pages of runs and zoos: each is one file that loads nothing from elsewhere.

Names of classes, jobs and files are whatever a user wrote: jinja2 escapes every value, and the page forbids
the browser to request anything.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader

from kubedet_trainer.reports import comparing, views
from kubedet_trainer.reports.zoo import markdown
from kubedet_trainer.reports.zoo import views as zoo_views

Document = Mapping[str, Any]


def render_run(document: Document, *, pictures: Mapping[str, bytes]) -> bytes:
    """The page of one run.

    Args:
        document: its report, see `document.Report`; of an earlier version with what that has.
        pictures: JPEGs by name, ``best-1``, ``worst-1`` and so on; those that there are.
    """
    analysis = document.get("analysis") or {}
    page = _environment().get_template("run.html.j2").render(
        document=document,
        run=document.get("run") or {},
        data=document.get("data") or {},
        hardware=document.get("hardware") or {},
        analysis=analysis,
        views=views,
        examples=[
            ("Worst pictures", _examples(analysis.get("worstImages", ()), pictures, name="worst")),
            ("Best pictures", _examples(analysis.get("bestImages", ()), pictures, name="best")),
        ],
    )  # fmt: skip
    return page.encode()


def render_comparison(runs: Mapping[str, Document]) -> bytes:
    """The page that compares the runs, whose reports have these names."""
    template = _environment().get_template("comparison.html.j2")
    return template.render(runs=runs, comparing=comparing).encode()


def render_zoo(document: Document, *, folder: str) -> bytes:
    """The page of a zoo.

    Args:
        document: its table, see `zoo.document.ZooReport`.
        folder: URI of the folder that the page goes to.
    """
    template = _environment().get_template("zoo.html.j2")
    return template.render(document=document, folder=folder, views=zoo_views, notes=markdown.COMMON).encode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("kubedet_trainer.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _examples(
    images: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes], *, name: str
) -> list[dict[str, Any]]:
    """The counts of each image and its picture, as an address that holds the picture itself."""
    return [
        {**image, "source": "data:image/jpeg;base64," + base64.b64encode(content).decode()}
        for number, image in enumerate(images, start=1)
        if (content := pictures.get(f"{name}-{number}")) is not None
    ]
