"""The web page of `hedge serve`: its files, its state, and the knobs of a link that is emulated."""

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hedge.common.errors import BadInput, Unreachable
from hedge.common.http import serve_files
from hedge.common.rpc import split_address
from hedge.edge_client.http.api import Api, body_of
from hedge.edge_client.http.errors import ApiError
from hedge.edge_client.http.service import Service
from hedge.edge_client.systems import SYSTEMS

FOLDER = Path(__file__).parent / "web"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
SECONDS = 5.0


class Page:
    """`control` is the HOST:PORT where `hedge link --control` listens."""

    def __init__(self, api: Api, service: Service, control: str | None = None) -> None:
        self._api = api
        self._service = service
        self._control = split_address(control) if control else None

    def routes(self) -> list[Route]:
        return [
            *serve_files(FOLDER, FILES),
            Route("/hedge/state", self._state),
            Route("/hedge/link", self._api.guarded(self._change), methods=["POST"]),
        ]

    async def _state(self, request: Request) -> Response:
        service = self._service
        link = service.hedge.link
        state: dict[str, Any] = {
            "systems": list(SYSTEMS),
            "slm": service.slm.name,
            "cloud": link.info.model_name if link else None,
            "address": link.address if link else None,
            "up": service.up,
            "link": None,
        }
        if self._control:
            try:
                state["link"] = await self._ask({})
            except Unreachable as error:
                state["link"] = {"error": str(error)}
        return JSONResponse(state)

    async def _change(self, request: Request) -> Response:
        if self._control is None:
            raise ApiError(404, "this link is not an emulated one", code="no_emulator")
        wanted = await body_of(request)
        if not isinstance(wanted, dict):
            raise ApiError(400, "the body is not a JSON object")
        answer = await self._ask(wanted)
        if "error" in answer:
            raise BadInput(str(answer["error"]))
        return JSONResponse(answer)

    async def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """A line to the emulator, and its answer."""
        assert self._control
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_connection(*self._control)
                try:
                    writer.write(json.dumps(wanted).encode() + b"\n")
                    return dict(json.loads(await reader.readline()))
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError) as error:
            raise Unreachable(
                f"no link emulator answers at {self._control[0]}:{self._control[1]}: {error}"
            ) from None
