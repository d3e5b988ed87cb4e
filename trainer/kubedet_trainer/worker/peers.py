"""How a worker's agent meets the agents of the other workers, and notices that one is lost.

torch documents `RendezvousHandler` for rendezvous of one's own. This one leaves the counting to the store
(`meeting`), which sees agents end. torch's polls a shared state about once a second, and drops a dead worker
only after several missed keep-alives.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from dataclasses import asdict
from typing import Any

from torch.distributed import DistNetworkError, HashStore, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)

from kubedet_trainer.settings import RunSettings
from kubedet_trainer.worker.meeting import Round, Ticket, View
from kubedet_trainer.worker.store_client import Connection, StoreClient

_JOIN_SECONDS = 600
"""How long an agent waits for the others."""

_STORE_SECONDS = 60
"""The longest wait for an answer of the rendezvous store to a request for a value."""

_LOOK_SECONDS = 0.1
_RECONNECT_SECONDS = 0.5
_CONNECT_SECONDS = 5

_LAST_CALL_SECONDS = 10
"""How long an elastic run that could begin waits for more workers. A later worker restarts all ranks."""


class Rendezvous(RendezvousHandler):
    """The rendezvous of a worker that is alone."""

    def __init__(self, settings: RunSettings) -> None:
        self._run_id = settings.rendezvous_id
        self._alone = HashStore()

    def get_backend(self) -> str:
        """A name for torch's log."""
        return "kubedet"

    @property
    def use_agent_store(self) -> bool:
        """The ranks have a store of their own: a shared one would keep the addresses of dead ranks."""
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the next round. See `RendezvousHandler`."""
        address = RendezvousStoreInfo(master_addr="127.0.0.1", master_port=_free_port())
        return RendezvousInfo(self._alone, 0, 1, address)

    def is_closed(self) -> bool:
        """Whether an agent has ended the run for all agents, as far as this one knows."""
        return False

    def set_closed(self) -> None:
        """End the run for all agents: one that joins later learns that it is over."""

    def num_nodes_waiting(self) -> int:
        """How many agents wait for the next round."""
        return 0

    def get_run_id(self) -> str:
        """The id of the run, which all its agents share."""
        return self._run_id

    def shutdown(self) -> bool:
        """End the run for all agents, and leave. Returns whether the store knows."""
        return True

    def has_lost_any(self) -> bool:
        """Whether the present round is over, because an agent or a rank of another one is lost."""
        return False

    def report_loss(self) -> None:
        """Tell the other agents that a rank of this one is lost, before they notice."""


class SharedRendezvous(Rendezvous):
    """The rendezvous of several workers, in the store of their job.

    While the store is away the ranks continue. Once it is back, empty, the agent takes its place again.
    """

    def __init__(self, settings: RunSettings, *, endpoint: str) -> None:
        """Connect to the store.

        Raises:
            UsageError: `endpoint` is not ``host:port``.
            DistNetworkError: nothing listens there.
        """
        super().__init__(settings)
        self._settings = settings
        self._endpoint = endpoint
        self._name = f"{settings.replica_index}-{secrets.token_hex(4)}"
        self._round: Round | None = None
        self._view = View()
        self._ended = threading.Event()
        self._values: StoreClient | None = None
        self._connection: Connection | None = self._connect()
        self._returning = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="rendezvous", daemon=True)
        self._watcher.start()

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the next round.

        Raises:
            RendezvousClosedError: the run is over.
            RendezvousTimeoutError: too few agents came.
            DistNetworkError: the store is away.
        """
        elastic = self._settings.min_replicas < self._settings.max_replicas
        ticket = Ticket(
            name=self._name,
            index=self._settings.replica_index,
            address=self._settings.local_address or socket.getfqdn(),
            port=_free_port(),
            min_agents=self._settings.min_replicas,
            max_agents=self._settings.max_replicas,
            last_call_seconds=_LAST_CALL_SECONDS if elastic else 0,
        )
        connection = self._connected()
        began = time.monotonic()
        try:
            answer = self._ask(connection, "join", asdict(ticket), timeout_seconds=_JOIN_SECONDS)
        except DistNetworkError as error:
            if time.monotonic() - began < _JOIN_SECONDS:
                raise
            raise RendezvousTimeoutError(f"too few workers joined within {_JOIN_SECONDS} s") from error
        if answer is None:
            raise RendezvousClosedError
        self._round, self._view = Round(**answer), View()
        if self._values is not None:
            self._values.close()
        self._values = StoreClient(self._endpoint, timeout_seconds=_STORE_SECONDS)
        return RendezvousInfo(
            PrefixStore(f"{self._run_id}/{self._round.number}", self._values),
            self._round.rank,
            self._round.size,
            RendezvousStoreInfo(master_addr=self._round.address, master_port=self._round.port),
        )

    def is_closed(self) -> bool:
        """Whether an agent has ended the run for all agents, as far as this one knows."""
        return self._view.isClosed

    def set_closed(self) -> None:
        """End the run for all agents: one that joins later learns that it is over."""
        self._tell("close")

    def num_nodes_waiting(self) -> int:
        """How many agents wait for the next round and have a place in it."""
        return self._view.waiting

    def shutdown(self) -> bool:
        """End the run for all agents, and leave. Returns whether the store knows."""
        is_told = self._tell("close")
        self.leave()
        return is_told

    def leave(self) -> None:
        """Leave the others, who notice."""
        self._ended.set()
        self._watcher.join()
        for connection in (self._connection, self._values):
            if connection is not None:
                connection.close()

    def has_lost_any(self) -> bool:
        """Whether the present round is over, because an agent or a rank of another one is lost."""
        return self._view.isLost and not self._view.isClosed  # closed: the run is over for all

    def report_loss(self) -> None:
        """Tell the other agents that a rank of this one is lost, before they notice."""
        self._tell("break_up", self._name)

    def _tell(self, operation: str, *arguments: Any) -> bool:
        """Ask for something whose answer is not needed. Returns False while the store is away."""
        if (connection := self._connection) is None:
            return False
        try:
            self._ask(connection, operation, *arguments, timeout_seconds=_CONNECT_SECONDS)
        except DistNetworkError:
            return False
        return True

    def _watch(self) -> None:
        """Look at the round again and again, which also shows the store that this agent is there."""
        while not self._ended.is_set():
            try:
                connection = self._connected()
                known = self._round
                answer = self._ask(connection, "look", self._name, timeout_seconds=_CONNECT_SECONDS)
                if known is not None and self._round is known:
                    self._view = View(**answer)
            except DistNetworkError:
                if self._connection is not None:
                    self._connection.close()
                self._connection, self._view = None, View()
                self._ended.wait(_RECONNECT_SECONDS)
            else:
                self._ended.wait(_LOOK_SECONDS)

    def _connected(self) -> Connection:
        """The connection to the store. Where it is lost, the thread that comes first makes another one.

        With one for each thread the agent would join by one of them, and take its old place by the other.
        """
        with self._returning:
            if self._connection is None:
                self._connection = self._return()
            return self._connection

    def _return(self) -> Connection:
        """Connect to a store that was away, and take the place in the round that it may have forgotten."""
        connection = self._connect()
        if (place := self._round) is not None:
            arguments = (self._name, place.number, place.rank, place.size, self._settings.max_replicas)
            self._ask(connection, "attach", *arguments, timeout_seconds=_CONNECT_SECONDS)
        return connection

    def _connect(self) -> Connection:
        return Connection(self._endpoint, timeout_seconds=_CONNECT_SECONDS)

    def _ask(self, connection: Connection, operation: str, *arguments: Any, timeout_seconds: float) -> Any:
        return connection.request(
            "meet", self._run_id, operation, *arguments, timeout_seconds=timeout_seconds
        )


def build_rendezvous(settings: RunSettings) -> Rendezvous:
    """The rendezvous of this worker with the others, or with itself if there are no others.

    Raises:
        UsageError: the endpoint of the store is not ``host:port``.
        DistNetworkError: the store does not accept connections.
    """
    endpoint = settings.rendezvous_endpoint
    return SharedRendezvous(settings, endpoint=endpoint) if endpoint else Rendezvous(settings)


def _free_port() -> int:
    """A port that is free now; rank 0 binds it a moment later."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
