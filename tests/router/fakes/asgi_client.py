"""An HTTP client of the application in this process, without a socket: for what needs no real connection."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from router.app import create_app
from router.auth import KeyRing
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import hand_config, hand_service

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


class AsgiClient:
    """Sends requests to a fresh application over `backend`."""

    def __init__(self, backend: HandBackend, keys: KeyRing | None = None, **edge: Any) -> None:
        self.service = hand_service(backend, **edge)
        self.app = create_app(self.service, hand_config(**edge), keys or KeyRing())

    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the response to one request."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, json=json, content=content, headers=headers)

        return asyncio.run(send())

    def chat(self, **body: Any) -> httpx.Response:
        """Return the response to a chat request that says hi unless told otherwise."""
        return self.request("POST", "/v1/chat/completions", json={"messages": HI} | body)
