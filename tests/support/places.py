"""Where the files of tests lie: in memory, on a machine that has room for them there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

#: Files in it are never written to a disk. Only Linux has it.
_MEMORY = Path("/dev/shm")  # noqa: S108  # folders in it are made with names of their own

#: Bytes that must be free there; what tests leave behind until they end is a tenth of it. A
#: container that was told nothing has 64 MB.
_ROOM = 4 * 2**30


def keep_files_in_memory() -> None:
    """Let this process and those it starts make temporary files in memory, unless the environment
    names a place. A database is then made in a tenth of the time: it is a thousand files.
    """
    if "TMPDIR" in os.environ or not _has_room():
        return
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # else what pytest has asked for before is remembered


def _has_room() -> bool:
    """Whether files may lie in memory, programs among them."""
    try:
        may_run = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        return may_run and shutil.disk_usage(_MEMORY).free >= _ROOM
    except OSError:
        return False
