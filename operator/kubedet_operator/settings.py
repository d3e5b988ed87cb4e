"""Settings of the operator's process, from its environment."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PREFIX = "KUBEDET_OPERATOR_"


class InvalidSetting(ValueError):
    """An environment variable of the operator has an invalid value."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """How the operator runs. `trainer_image` is read from ``KUBEDET_OPERATOR_TRAINER_IMAGE``, and so on."""

    trainer_image: str = "kubedet-trainer:0.1.0"
    """Image of the worker and rendezvous pods of jobs that set none. The deployment sets its full name."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch, separated by commas. Empty: every namespace, which needs a ClusterRole."""
    lease_namespace: str = ""
    """Namespace of the Lease by which replicas choose their leader. Empty: that of the operator's own pod."""
    service_account: str = ""
    """The operator's own service account, as ``namespace/name``, which no worker may use. Empty: the one that
    its token names."""
    concurrency: int = 16
    """Number of jobs to reconcile in parallel. They wait for the API server, not for the CPU."""
    progress_interval_seconds: int = 10
    """Seconds between two requests for a job's progress. Each change costs one write of the status."""
    metrics_port: int = 8080
    """Port for /metrics and /readyz."""
    health_port: int = 8081
    """Port for /healthz, the liveness probe."""


def read_settings(environment: Mapping[str, str]) -> OperatorSettings:
    """The settings in `environment`, with defaults for absent and empty variables.

    Raises:
        InvalidSetting: a value is not of its setting's type.
    """
    hints = typing.get_type_hints(OperatorSettings)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(OperatorSettings):
        variable = _PREFIX + field.name.upper()
        if text := environment.get(variable, "").strip():
            given[field.name] = _parse(text, hints[field.name], variable)
    return OperatorSettings(**given)


def _parse(text: str, hint: Any, variable: str) -> Any:
    if hint is int:
        if not text.isdecimal() or int(text) < 1:
            raise InvalidSetting(f"{variable}: got '{text}', must be a whole number >= 1")
        return int(text)
    if hint is str:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())
