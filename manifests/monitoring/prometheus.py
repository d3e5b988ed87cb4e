"""A Prometheus as its HTTP interface shows it, and the moment or range that it is asked about."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitoring.queries import fill

_POINTS = 240
"""Of a curve: about what a panel of Grafana has pixels for."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series that a query found."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """Time and value; one of a query that asks for the newest values."""

    @property
    def newest(self) -> float:
        """Its last value."""
        return self.points[-1][1]


@dataclass(frozen=True, kw_only=True)
class View:
    """What a dashboard is asked for: a time range and the values of its variables."""

    end: float
    seconds: float
    namespace: str = ".+"
    job: str = ".+"
    zoo: str = ".+"
    rate_seconds: int = 60
    """Value of ``$__rate_interval``: at least four scrapes."""

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max(1.0, self.seconds / _POINTS)

    def fill(self, expression: str) -> str:
        """`expression` with the values of all variables."""
        variables = {
            "__rate_interval": f"{self.rate_seconds}s",
            "__range": f"{math.ceil(self.seconds)}s",
            "namespace": self.namespace,
            "job": self.job,
            "zoo": self.zoo,
        }
        return fill(expression, variables)


@dataclass(frozen=True)
class Prometheus:
    """The HTTP interface below an address such as ``http://127.0.0.1:9090``."""

    url: str

    def query(self, expression: str, view: View) -> list[Series]:
        """The newest values of a query; NaN is no value.

        Raises:
            ValueError: Prometheus refuses the query.
        """
        found = self._get("query", query=view.fill(expression), time=view.end)
        if found["resultType"] == "scalar":
            return _series({}, [found["result"]])
        return [series for item in found["result"] for series in _series(item["metric"], [item["value"]])]

    def query_range(self, expression: str, view: View) -> list[Series]:
        """The curves of a query; points that are NaN are left out, and curves without a point.

        Raises:
            ValueError: Prometheus refuses the query.
        """
        found = self._get(
            "query_range",
            query=view.fill(expression),
            start=view.end - view.seconds,
            end=view.end,
            step=view.step,
        )
        return [series for item in found["result"] for series in _series(item["metric"], item["values"])]

    def has_series(self, selector: str, view: View, *, now: bool = False) -> bool:
        """Whether a selector matches anything, now or within the range; buckets must have counted "
        "something."""
        if "_bucket" in selector:
            return bool(self.query(f"sum(increase({selector}[$__range])) > 0", view))
        return bool(self.query(selector if now else f"count_over_time({selector}[$__range])", view))

    def _get(self, path: str, **parameters: str | float) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{parameters['query']}: {error.read().decode()}") from error


def _series(labels: Mapping[str, str], points: list[Any]) -> list[Series]:
    known = tuple((float(time), float(value)) for time, value in points if not math.isnan(float(value)))
    return [Series(labels=labels, points=known)] if known else []
