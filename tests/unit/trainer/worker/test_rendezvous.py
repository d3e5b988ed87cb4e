"""Where the rendezvous store listens."""

from __future__ import annotations

import pytest

from kubedet_trainer.errors import UsageError
from kubedet_trainer.worker.rendezvous import read_port


@pytest.mark.parametrize(
    ("environment", "port"),
    [({}, 29400), ({"KUBEDET_RENDEZVOUS_ENDPOINT": "job-rdzv.team.svc:29555"}, 29555)],
)
def test_port_is_that_of_the_endpoint(environment: dict[str, str], port: int) -> None:
    assert read_port(environment) == port


def test_endpoint_without_a_port_is_refused() -> None:
    with pytest.raises(UsageError, match="KUBEDET_RENDEZVOUS_ENDPOINT: got 'host', must be host:port"):
        read_port({"KUBEDET_RENDEZVOUS_ENDPOINT": "host"})
