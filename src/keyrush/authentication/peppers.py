"""Where peppers come from: the setting, or a file beside the SQLite database."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from keyrush.authentication.keyring import Fingerprints
from keyrush.core.checks import MAKE_PEPPER, MIN_PEPPER
from keyrush.core.notation import counted
from keyrush.errors import ConfigurationError, KeyrushError, StoreError
from keyrush.sql.files import PRIVATE
from keyrush.sql.hosts import database_url
from keyrush.sql.url import file_at
from keyrush.store.opening import Opened

FILE_NAME = "keyrush.pepper"

#: Seconds to wait for another process to fill the file, and between two looks at it.
_PATIENCE, _PAUSE = 1.0, 0.01

_log = logging.getLogger("keyrush")


def peppers_for(
    given: Sequence[bytes], path: Path | None, kept: Opened, *, now: int
) -> list[bytes]:
    """The peppers to use, newest first: those that are set, else the one in the file at `path`,
    which is made where there is none yet and none is needed.

    Raises:
        ConfigurationError: A pepper is needed and missing, or does not fit the store's keys.
        StoreError: The store can't be asked.
    """
    in_use = _in_use(kept, now)
    if given:
        peppers = list(given)
    elif kept.is_ephemeral:
        peppers = [secrets.token_bytes(32)]
    elif path is None:
        raise ConfigurationError(
            "KEYRUSH_PEPPER: needed for this store; set it to a secret such as the output of "
            f"{MAKE_PEPPER}"
        )
    else:
        peppers = [_read_or_make(path, may_make=not in_use)]
    lost = uncovered(peppers, in_use)
    if in_use and lost == sum(in_use.values()):
        raise ConfigurationError(
            f"KEYRUSH_PEPPER: it fits no key in the store ({counted(lost, 'active key')}), so all "
            "would be refused; restore the pepper they were made with"
        )
    if lost:
        keys = counted(lost, "active key")
        _log.warning("a pepper that is not in KEYRUSH_PEPPER is needed by %s", keys)
    return peppers


def _in_use(kept: Opened, now: int) -> Mapping[str, int]:
    """How many active keys need each pepper, by pepper id."""
    if kept.is_async:  # it is not asked: the loop that it belongs to does not run yet
        return {}
    try:
        return kept.store.peppers(now)
    except KeyrushError:
        raise
    except Exception as error:  # a store of the user's own may raise anything
        raise StoreError(f"the store can't answer: {type(error).__name__}") from error


def uncovered(peppers: Sequence[bytes], in_use: Mapping[str, int]) -> int:
    """How many of the active keys, counted by pepper id, none of `peppers` has made."""
    known = Fingerprints(peppers).pepper_ids
    return sum(count for pepper_id, count in in_use.items() if pepper_id not in known)


def pepper_file(store_url: str) -> Path | None:
    """The pepper file beside a SQLite database, None for other stores."""
    path = database_file(store_url)
    return None if path is None else path.with_name(FILE_NAME)


def database_file(store_url: str) -> Path | None:
    """The file of a SQLite database, None for other stores."""
    if "://" not in store_url:
        return None
    return file_at(database_url(store_url))  # which the store has parsed before


def _read_or_make(path: Path, *, may_make: bool) -> bytes:
    if not path.exists():
        if not may_make:
            raise ConfigurationError(
                f"{path} is missing, but the database holds keys made with it; restore the file "
                "or set KEYRUSH_PEPPER"
            )
        try:
            _make(path)
        except OSError as error:
            raise ConfigurationError(f"{path}: can't be written: {error.strerror}") from error
    try:
        pepper = _read(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from error
    if not pepper:
        raise ConfigurationError(f"{path} is empty; restore it or set KEYRUSH_PEPPER")
    if len(pepper) < MIN_PEPPER:
        raise ConfigurationError(
            f"{path} has {len(pepper)} bytes, which can be guessed: a pepper has at least "
            f"{MIN_PEPPER}; put one there such as the output of {MAKE_PEPPER}"
        )
    return pepper


def _make(path: Path) -> None:
    """Write a new pepper, mode 0600. Of processes that do so together, one wins."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=FILE_NAME)
    try:
        with os.fdopen(descriptor, "w") as file:
            if hasattr(os, "fchmod"):  # elsewhere there are no modes
                os.fchmod(descriptor, PRIVATE)  # whatever the umask
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(temporary, path)  # whole from the beginning, and never over another
        except FileExistsError:
            pass
        except (OSError, AttributeError):  # no hard links, as on exFAT and some shared folders
            _copy(Path(temporary), path)
    finally:
        Path(temporary).unlink()


def _copy(source: Path, path: Path) -> None:
    """Make the file unless it is there; for a moment it is empty (see `_read`)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    except FileExistsError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(source.read_bytes())
    except OSError:
        path.unlink()
        raise


def _read(path: Path) -> bytes:
    """What the file holds, once whoever is making it has done so."""
    deadline = time.monotonic() + _PATIENCE
    while not (pepper := path.read_bytes().strip()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return pepper
