"""Accounts and keys of a run, in the store that the environment names: an account for each key.

`python -m benchmarks.fleet.filling COUNT` writes the keys to the file `BENCH_KEYS`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.fleet.contenders import open_gate
from benchmarks.fleet.workload import plan_of


def main() -> None:
    """Make them."""
    made = int(sys.argv[1])
    gate = open_gate()
    texts = []
    for number in range(made):
        account = gate.accounts.create(f"acct_{number}", plan=plan_of(number, made))
        texts.append(gate.keys.create(account.id, "bench").text)
    gate.close()
    Path(os.environ["BENCH_KEYS"]).write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
