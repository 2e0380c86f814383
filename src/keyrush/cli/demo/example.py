"""The Rushed example: where it is, and how it is served."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from keyrush.gate.gate import Gate


def examples() -> Path:
    """The folder with rushed.py: in the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


def load(path: Path, gate: Gate) -> Starlette:
    """The app that the module at `path` makes, behind the gate.

    Raises:
        FileNotFoundError: There is no such module.
    """
    spec = importlib.util.spec_from_file_location("rushed", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: Starlette = module.create_app(gate=gate)
    return app


def listening() -> socket.socket:
    """A socket on a free port.

    Listening already, so that requests wait until the server has started; with the protocol
    named, asyncio turns Nagle's algorithm off, as for a socket of its own.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@contextmanager
def served(app: Starlette, listener: socket.socket | None = None) -> Iterator[int]:
    """Serve `app` by uvicorn in a thread; gives the port. A `listener` is where, for apps that
    must know that.
    """
    listener = listener or listening()
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
