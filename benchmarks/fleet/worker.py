"""One worker of a server: `python -m benchmarks.fleet.worker NAME`, with uvicorn.

It says its port, and then for each line what it has used until then.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time

import uvicorn

from benchmarks.fleet.contenders import ON_SERVER, warm


def main() -> None:
    """Have all keys known, and serve until standard input ends."""
    contender = ON_SERVER[sys.argv[1]].make()
    asyncio.run(warm(contender))
    config = uvicorn.Config(contender.app, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def answer() -> None:
        print(listener.getsockname()[1], flush=True)  # noqa: T201  # the one who asks reads it
        for _ in sys.stdin:
            contender.write()
            asked = contender.asked
            used = {
                "cpu": time.process_time(),
                "look_ups": asked.look_ups,
                "trips": asked.trips,
            }
            print(json.dumps(used), flush=True)  # noqa: T201  # as above
        server.should_exit = True

    threading.Thread(target=answer).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
