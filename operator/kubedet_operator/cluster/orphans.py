"""Children of jobs that are gone, and that no garbage collector will fetch: their owner was lost.

They still name it. Children that were orphaned on purpose name no owner, and are left alone.
"""

from __future__ import annotations

import asyncio
import logging

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster

logger = logging.getLogger(__name__)

COLLECTION_SECONDS = 5.0
"""The time between a complete list and the search for orphans: the garbage collector may be at work."""

RETRY_SECONDS = 10.0


async def sweep_after_lists(
    cluster: Cluster, cache: Cache, listed: asyncio.Event, leading: asyncio.Event
) -> None:
    """Sweep after every complete list while this replica leads, until cancelled."""
    while True:
        await listed.wait()
        await leading.wait()
        await asyncio.sleep(COLLECTION_SECONDS)
        listed.clear()
        try:
            await sweep(cluster, cache)
        except errors.OperatorError as error:
            logger.warning("orphans: %s; retrying in %.0f s", error, RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
            listed.set()


async def sweep(cluster: Cluster, cache: Cache) -> None:
    """Delete the children of jobs that the API server, asked for each, does not know any more.

    Raises:
        errors.OperatorError: something could not be asked or deleted; nothing is lost by sweeping again.
    """
    present: dict[Key, str | None] = {}
    for lost in cache.lost_children():
        if lost.key not in present:
            present[lost.key] = await _uid(cluster, lost.key)
        if lost.job_uid == present[lost.key]:
            continue  # the cache was behind
        logger.info("%s/%s: deleting %s %s of a job that is gone", *lost.key, lost.plural, lost.name)
        await cluster.delete(lost.plural, lost.key[0], lost.name, uid=lost.uid)


async def _uid(cluster: Cluster, key: Key) -> str | None:
    """The uid of the job that has this name now."""
    try:
        uid: str = (await cluster.read_job(*key))["metadata"]["uid"]
    except errors.NotFound:
        return None
    return uid
