"""A client of the API server for tests that make too many requests for kubectl."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

WAIT_SECONDS = 180
"""For what controllers do in their time: the garbage collector looks for new kinds every 30 s."""


class Refused(Exception):
    """The API server has refused a request."""


class Kube:
    """Requests with the rights of a kubeconfig that carries a token. It lives in one event loop."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._server = cluster["server"]
        self._headers = {"Authorization": f"Bearer {user['token']}"}
        self._tls = ssl.create_default_context(cadata=authority)
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        strategic: bool = False,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        """The answer; patches are merged as JSON, or by the keys of their lists if `strategic`.

        Raises:
            Refused: there is none. Where it may be `missing_ok`, a target that is not there is as good.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        patch = "strategic-merge-patch" if strategic else "merge-patch"
        content = f"application/{patch}+json" if method == "PATCH" else "application/json"
        async with self._session.request(
            method,
            f"{self._server}{path}",
            data=json.dumps(body) if body is not None else None,
            headers={**self._headers, "Content-Type": content},
            ssl=self._tls,
        ) as response:
            answer: dict[str, Any] = await response.json()
        if response.status >= 400 and not (missing_ok and response.status in (404, 409)):
            raise Refused(f"{method} {path}: {answer.get('message', answer)}")
        return answer

    async def wait_for(self, look: Callable[[], Awaitable[Any]]) -> None:
        """Return once `look` returns something true; until then it may be refused."""
        end = asyncio.get_running_loop().time() + WAIT_SECONDS
        while True:
            try:
                if await look():
                    return
                problem = "not so"
            except Refused as refusal:
                problem = str(refusal)
            assert asyncio.get_running_loop().time() < end, problem
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
