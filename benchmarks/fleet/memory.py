"""What a key that is known, and a window of it, take: `python -m benchmarks.fleet.memory`.

All that is kept of a key counts, the digest that it is known by too, as it stands while the news
come: bytes on the heap of the process, as Python counts them, and objects that its garbage
collector goes through. Where windows are kept outside, in the working folder or on a server, it is
what that has grown by.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

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
    texts = keys()
    count = len(texts) - 1
    entries: list[Any] = [None] * count

    def verify(text: bytes) -> Any:
        return gate.finishing.verification.verify(
            gate.credential_headers.credential([(HEADER, text)])
        )

    verify(texts.pop())
    gate.watch.poll()
    gc.collect()
    tracked = len(gc.get_objects())
    tracemalloc.start()
    before = _heap()
    for number, text in enumerate(texts):
        entries[number] = verify(text)
        assert isinstance(entries[number], Entry)  # noqa: S101  # they are good
    known = _heap()
    tracked = len(gc.get_objects()) - tracked
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
        "tracked": tracked / count,
        "window": (taken - known) / count,
        "outside": outside / count,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    gate.close()


if __name__ == "__main__":
    main()
