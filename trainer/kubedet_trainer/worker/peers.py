"""How a worker's agent meets the agents of the other workers, and notices that one is lost."""

from __future__ import annotations

import time
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, create_handler

from kubedet_trainer.settings import RunSettings
from kubedet_trainer.worker.store_client import StoreClient

_RENDEZVOUS_OPTIONS: dict[str, Any] = {
    "join_timeout": 600,
    "keep_alive_interval": 1,
    "keep_alive_max_attempt": 3,
}

_STORE_SECONDS = 60
"""The longest wait for an answer of the rendezvous store."""

_LAST_CALL_SECONDS = 10
"""How long an elastic run that could begin waits for more workers. A later worker restarts all ranks."""

_LOST_SECONDS = 10
"""How long a worker may send no keep-alive. Ranks notice most losses immediately. They do not notice the
loss of a peer whose node was cut off, or of one that left before the ranks had met."""


class Roster:
    """The workers of the current group, and whether all of them still send keep-alives.

    torch drops a silent worker from the state of its rendezvous, but it does not inform the other agents.
    """

    def __init__(self, handler: DynamicRendezvousHandler) -> None:
        self._holder = handler._state_holder  # the one private name: no public call shows the keep-alives
        self._known: frozenset[Any] = frozenset()
        self._missed_since: float | None = None

    def note(self) -> None:
        """Remember the workers whose ranks start now."""
        self._known = frozenset(self._holder.state.participants)
        self._missed_since = None

    def has_lost_any(self) -> bool:
        """Whether a worker has been silent for too long. torch's loop keeps the state current."""
        state = self._holder.state
        if state.closed or self._known <= state.last_heartbeats.keys():  # closed: the run is over
            self._missed_since = None
            return False
        if self._missed_since is None:
            self._missed_since = time.monotonic()
        return time.monotonic() - self._missed_since > _LOST_SECONDS


def build_rendezvous(settings: RunSettings) -> DynamicRendezvousHandler:
    """The rendezvous of this worker with the others, or with itself if there are no others.

    Raises:
        DistNetworkError: the rendezvous store does not accept connections.
        RendezvousConnectionError: the store does not answer.
    """
    endpoint = settings.rendezvous_endpoint
    store = StoreClient(endpoint, timeout_seconds=_STORE_SECONDS) if endpoint else HashStore()
    return create_handler(
        store,
        C10dRendezvousBackend(store, settings.rendezvous_id),
        RendezvousParameters(
            backend="c10d",
            endpoint=endpoint or "",
            run_id=settings.rendezvous_id,
            min_nodes=settings.min_replicas,
            max_nodes=settings.max_replicas,
            local_addr=settings.local_address if endpoint else "127.0.0.1",
            last_call_timeout=_LAST_CALL_SECONDS if settings.min_replicas < settings.max_replicas else 1,
            **_RENDEZVOUS_OPTIONS,
        ),
    )
