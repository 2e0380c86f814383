"""A real PgBouncer in transaction pooling, before the session's PostgreSQL server.

It is a package of the system's, not of Python's: where it is missing, its tests are skipped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.faults import until

#: As Debian sets it up, but for what a test needs: nothing that a client sends is passed over.
#: Few servers' connections, and each in turn, so that no client has one for itself.
_CONFIGURATION = """
[databases]
* = host={host} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
"""


@dataclass(frozen=True)
class PgBouncer:
    """A pooler before a database, and the database's own URL."""

    url: str
    direct_url: str


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """A PgBouncer of this test, before an empty database."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("PgBouncer is missing: apt-get install pgbouncer")
    direct, port = sa.make_url(postgres_url), _free_port()
    pooled = direct.set(host="127.0.0.1", port=port, query={})
    host = direct.query["host"]
    folder = tempfile.mkdtemp(prefix="keyrush-")
    Path(folder).chmod(0o755)
    file = Path(folder) / "pgbouncer.ini"
    file.write_text(_CONFIGURATION.format(host=host, user=direct.username, port=port), "utf-8")
    # Never as root, which it refuses: as whom the server runs, whose socket it uses.
    owner = pwd.getpwuid(Path(str(host)).stat().st_uid).pw_name
    user = ["-u", owner] if os.getuid() == 0 else []
    process = subprocess.Popen(  # noqa: S603  # the system's own program
        [program, "-q", *user, str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    url = pooled.render_as_string(hide_password=False)

    def answers() -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True):
            return True
        assert process.poll() is None, "PgBouncer has ended"
        return False

    until(answers)
    yield PgBouncer(url, postgres_url)
    process.terminate()
    process.wait()
    shutil.rmtree(folder)
