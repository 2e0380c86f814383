"""What a key that is known, and a window of it, take: `python -m benchmarks.fleet.memory`.

Bytes on the heap of the process, as Python counts them; and where windows are kept outside, in
the working folder or on a server, what that has grown by.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc
from pathlib import Path

from benchmarks.fleet.contenders import HEADER, keys, open_gate
from keyrush.authentication.cache import Entry
from keyrush.runtime.clock import now_ms


def _heap() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _outside() -> int:
    """Bytes of files here, or on the server."""
    url = os.environ["BENCH_LIMITER"]
    if url.startswith("redis"):
        import redis

        with redis.Redis.from_url(url) as client:
            memory: dict[str, int] = client.info("memory")
            return memory["used_memory"]
    url = os.environ["BENCH_STORE"]
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return int(row[0]) if row else 0
    return sum(file.stat().st_blocks * 512 for file in Path().iterdir())


def main() -> None:
    """Have all keys known, and then take from a window of each."""
    files = _outside()
    gate = open_gate()
    credentials = [gate.credential_headers.credential([(HEADER, key)]) for key in keys()]
    gate.admission.verification.verify(credentials.pop())
    count = len(credentials)
    tracemalloc.start()
    before = _heap()
    entries = []
    for credential in credentials:
        entry = gate.admission.verification.verify(credential)
        assert isinstance(entry, Entry)  # noqa: S101  # they are good
        entries.append(entry)
    known = _heap()
    if not os.environ["BENCH_LIMITER"].startswith("file:"):  # one is there from the beginning
        files = _outside()
    for entry in entries:
        windows = entry.verified.windows
        tally = gate.limiter.take_at_once(windows, 1, now_ms())
        if tally is None:
            gate.limiter.take(windows, 1, now_ms())
    taken, outside = _heap(), _outside() - files
    figures = {
        "key": (known - before) / count,
        "window": (taken - known) / count,
        "outside": outside / count,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    gate.close()


if __name__ == "__main__":
    main()
