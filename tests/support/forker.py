"""A process that has imported keyrush and runs nothing: `scripts.forked` has its children run code.

Started with one argument: the number of a socket, over which orders come and statuses go back.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import socket
import sys
from typing import Any

#: What takes long to import.
_IMPORTED = ("keyrush", "keyrush.limiter.mapped", "keyrush.store.sql", "psycopg", "redis")

#: Bytes of an order.
LONGEST = 2**20


def _next(orders: socket.socket) -> dict[str, Any]:
    """What to run, in the child that is to do so; ends with whoever gives the orders."""
    while True:
        message, ancillary, _, _ = orders.recvmsg(LONGEST, socket.CMSG_SPACE(12))
        if not message:
            sys.exit()
        files = array.array("i", b"".join(data for _, _, data in ancillary))
        if not (child := os.fork()):
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            orders.close()
            order: dict[str, Any] = json.loads(message)
            return order
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        orders.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # else each child copies what it looks through
    order = _next(socket.socket(fileno=int(sys.argv[1])))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["arguments"]]
    code = compile(order["code"], "<string>", "exec")
    exec(code, {"__name__": "__main__"})  # noqa: S102  # the tests' own code
