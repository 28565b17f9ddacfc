"""HTTP inside a program of its own: uvicorn without signals and logs, and the files of a page."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from hedge.common.errors import HedgeError
from hedge.common.rpc import split_address

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class HttpServer(uvicorn.Server):
    """Serves an ASGI app; leaves the signals to the program it is part of."""

    def __init__(self, app: Any) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


async def serving(app: Any, address: str) -> tuple[HttpServer, "asyncio.Task[None]"]:
    """A server that listens at `address`, and its task; it ends after `should_exit`. HedgeError
    when it cannot listen.
    """
    # Bound here: uvicorn would end the program.
    try:
        bound = _bound(address)
    except (OSError, UnicodeError):
        raise _cannot_listen(address) from None
    server = HttpServer(app)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    # uvicorn tells nobody when it has started.
    while not (server.started or task.done()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return server, task


def check_free(address: str) -> None:
    """HedgeError when a port is in use: said before a model is loaded, which may take minutes."""
    try:
        _bound(address).close()
    except OSError as error:
        # Whatever else is wrong is said when the server listens.
        if error.errno == errno.EADDRINUSE:
            raise _cannot_listen(address) from None
    except UnicodeError:
        pass


def _bound(address: str) -> socket.socket:
    host, port = split_address(address, lowest_port=0)
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, *_, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(where[:2], family=family, backlog=2048)


def _cannot_listen(address: str) -> HedgeError:
    return HedgeError(
        f"cannot listen on {address}: the port is in use or the address is not this machine's"
    )


def serve_files(folder: Path, files: Mapping[str, str]) -> list[Route]:
    """The files of a page by their path. It may load nothing from anywhere else."""

    def sender(name: str) -> Any:
        async def send(request: Request) -> Response:  # noqa: ARG001
            return FileResponse(folder / name, headers=_HEADERS)

        return send

    return [Route(path, sender(name)) for path, name in files.items()]
