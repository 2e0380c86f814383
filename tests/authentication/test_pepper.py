"""Where peppers come from, and what is said when they are missing or wrong."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from keyrush import ConfigurationError, Gate, Settings
from keyrush.authentication.keyring import Fingerprints
from keyrush.authentication.peppers import FILE_NAME, pepper_file, peppers_for
from keyrush.sql.files import make_private
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import given, open_store
from keyrush.store.protocol import Store
from tests.conftest import settings
from tests.support.values import NOW, account, api_key

LONG = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    """Settings with a SQLite file and no pepper."""
    return settings(store_url=f"sqlite:///{tmp_path}/keyrush.db")


@pytest.fixture
def store(sqlite: Settings) -> Iterator[Store]:
    """The store in that file, with an account."""
    opened = open_store(sqlite.store_url).store
    opened.add_account(account())
    yield opened
    opened.close()


def file_beside(configured: Settings) -> Path:
    """The pepper file, which there is one of."""
    path = pepper_file(configured.store_url)
    assert path is not None
    return path


def find(configured: Settings, store: Store) -> list[bytes]:
    """The peppers now."""
    path = pepper_file(configured.store_url)
    return peppers_for(configured.peppers, path, given(store), now=NOW)


def test_made_once_beside_the_database(sqlite: Settings, store: Store, tmp_path: Path) -> None:
    """A new SQLite database gets a pepper of its own in a file only its owner can read."""
    peppers = find(sqlite, store)
    path = tmp_path / FILE_NAME
    assert path.read_bytes().strip() == peppers[0]
    assert len(peppers[0]) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find(sqlite, store) == peppers
    assert {entry.name for entry in tmp_path.glob(f"{FILE_NAME}*")} == {FILE_NAME}


def test_made_by_many_at_once(sqlite: Settings, store: Store) -> None:
    """Those that start together all use the one pepper that is kept."""
    barrier = threading.Barrier(8)
    found: list[list[bytes]] = []

    def start() -> None:
        barrier.wait()
        found.append(find(sqlite, store))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [find(sqlite, store)] * 8


#: What a file system without hard links says, by its kind; and Python where none has any.
NO_LINKS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, None]


@pytest.mark.parametrize("code", NO_LINKS)
def test_made_where_there_are_no_hard_links(
    sqlite: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """Without them too there is one pepper, whole, for all that start together, and a mode 0600."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(code, "no hard links")

    if code is None:
        monkeypatch.delattr(os, "link")
    else:
        monkeypatch.setattr(os, "link", refuse)
    test_made_by_many_at_once(sqlite, store)
    path = file_beside(sqlite)
    assert len(path.read_bytes()) > 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {entry.name for entry in path.parent.glob(f"{FILE_NAME}*")} == {FILE_NAME}


def test_file_that_is_being_made(sqlite: Settings, store: Store) -> None:
    """Who finds the file empty, because another process is just making it, waits for that."""
    path = file_beside(sqlite)
    path.touch()
    writer = threading.Timer(0.1, path.write_text, [LONG])
    writer.start()
    assert find(sqlite, store) == [LONG.encode()]
    writer.join()


def test_setting_wins_over_the_file(sqlite: Settings, store: Store) -> None:
    """`KEYRUSH_PEPPER` is used where it is given, newest first, and no file is made."""
    configured = settings(store_url=sqlite.store_url, pepper=f"{LONG},{OTHER}")
    assert find(configured, store) == [LONG.encode(), OTHER.encode()]
    assert not file_beside(configured).exists()


@pytest.mark.parametrize("url", ["memory://", "postgresql://host/keys", "my.module:Store"])
def test_only_sqlite_has_a_file(url: str) -> None:
    """Beside other stores there is no place for a file."""
    assert pepper_file(url) is None


@pytest.mark.parametrize(
    "name", ["keyrush.db", "file:keyrush.db?mode=rw&uri=true", "sub/../keyrush.db"]
)
def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file is in the folder of the database, however that is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    path = file_beside(settings(store_url=f"sqlite:///{name}"))
    assert path.resolve() == tmp_path / FILE_NAME


def test_memory_needs_none() -> None:
    """Keys in memory go with the process, and so may their pepper: each time another."""
    configured = settings()
    assert len(find(configured, MemoryStore())[0]) == 32
    assert find(configured, MemoryStore()) != find(configured, MemoryStore())


@pytest.mark.parametrize("url", ["postgresql://host/keys", "my.module:Store"])
def test_missing_in_production(store: Store, url: str) -> None:
    """Other stores need the setting; the message says how to make one."""
    with pytest.raises(ConfigurationError, match=r"KEYRUSH_PEPPER: needed.*token_urlsafe"):
        find(settings(store_url=url), store)


def test_store_of_ones_own_in_code() -> None:
    """A store in memory that is passed as an object needs no pepper, whatever the URL says."""
    configured = settings(store_url="postgresql://host/keys")
    assert len(find(configured, MemoryStore())[0]) == 32


def test_lasting_store_of_ones_own_needs_a_pepper(sqlite: Settings, store: Store) -> None:
    """A store that outlives the process must not get a pepper that does not."""
    with pytest.raises(ConfigurationError, match="KEYRUSH_PEPPER: needed"):
        Gate.open(settings(), store=store)


@pytest.mark.parametrize(
    ("pepper", "which"),
    [
        ("hunter2", "has 7 bytes"),
        (LONG[:-1], "has 31 bytes"),
        ("é" * 15, "has 30 bytes"),
        (f"hunter2,{LONG}", "number 1 has 7 bytes"),
        (f"{LONG},{OTHER},hunter2", "number 3 has 7 bytes"),
        (f"{LONG}{OTHER},x", "number 2 has 1 bytes"),
    ],
)
def test_short_peppers_are_refused(pepper: str, which: str) -> None:
    """A pepper that could be guessed, anywhere in the list, is no setting; and is not shown."""
    with pytest.raises(ConfigurationError, match=f"KEYRUSH_PEPPER: {which}.*token_urlsafe") as no:
        settings(pepper=pepper)
    assert "hunter2" not in str(no.value)
    assert "é" not in str(no.value)


def test_shortest_pepper() -> None:
    """32 bytes are enough, however many characters they are."""
    assert find(settings(pepper="é" * 16), MemoryStore()) == [("é" * 16).encode()]


@pytest.mark.parametrize("text", ["hunter-2", LONG[:-1], f"  {LONG[:-1]} \n"], ids=str.__len__)
def test_short_file(sqlite: Settings, store: Store, text: str) -> None:
    """A file with too few bytes is no pepper: it is named, with how to make one, and not shown."""
    file_beside(sqlite).write_text(text)
    length = len(text.strip())
    match = rf"keyrush\.pepper has {length} bytes.*token_urlsafe"
    with pytest.raises(ConfigurationError, match=match) as refused:
        find(sqlite, store)
    assert text.strip() not in str(refused.value)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
@pytest.mark.parametrize("name", ["keyrush.db", "file:keyrush.db?uri=true", "file:///{}?uri=true"])
def test_files_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, name: str
) -> None:
    """Database, files beside it and pepper have mode 0600, whatever the umask and the name."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(umask)
    try:
        url = f"sqlite:///{name.format(tmp_path / 'keyrush.db')}"
        gate = Gate.open(settings(store_url=url))
        gate.accounts.create("acct_a")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        gate.close()
    finally:
        os.umask(before)
    database = ("keyrush.db", "keyrush.db-wal", "keyrush.db-shm", "keyrush.db-windows")
    beside = (*database, FILE_NAME)
    assert modes == dict.fromkeys(beside, 0o600)


def test_files_that_exist_keep_their_mode(tmp_path: Path) -> None:
    """Whoever shares a database with a group goes on to: only new files are made private."""
    database = tmp_path / "keyrush.db"
    database.touch()
    database.chmod(0o660)
    store = open_store(f"sqlite:///{database}").store
    store.accounts()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    store.close()
    assert modes == dict.fromkeys(("keyrush.db", "keyrush.db-wal", "keyrush.db-shm"), 0o660)


@pytest.mark.parametrize("options", ["mode=rw", "mode=ro", "mode=memory", "immutable=1"])
def test_no_file_where_sqlite_makes_none(tmp_path: Path, options: str) -> None:
    """A URI by which SQLite would make no file makes none."""
    make_private(f"file:{tmp_path}/keyrush.db?{options}", is_uri=True)
    make_private(":memory:", is_uri=False)
    make_private("file::memory:", is_uri=True)
    assert not list(tmp_path.iterdir())


def test_wrong_pepper(sqlite: Settings, store: Store) -> None:
    """A pepper that would refuse every key stops the start-up, and is not shown."""
    store.add_keys([api_key(pepper_id=Fingerprints([LONG.encode()]).pepper_ids[0])])
    with pytest.raises(
        ConfigurationError, match=r"fits no key in the store \(1 active key\)"
    ) as caught:
        find(settings(store_url=sqlite.store_url, pepper=OTHER), store)
    assert OTHER not in str(caught.value)
    assert find(settings(store_url=sqlite.store_url, pepper=f"{OTHER},{LONG}"), store)


def test_keys_that_no_longer_count_need_no_pepper(sqlite: Settings, store: Store) -> None:
    """Revoked and expired keys don't hold a pepper in use."""
    store.add_keys([api_key("cred_a", pepper_id="old", expires_at=NOW)])
    store.add_keys([api_key("cred_b", pepper_id="old", revoked_at=NOW)])
    assert find(settings(store_url=sqlite.store_url, pepper=LONG), store)


def test_some_keys_under_a_lost_pepper(
    sqlite: Settings, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only some keys would be refused, the others go on, with a warning."""
    store.add_keys([api_key("cred_a", pepper_id=Fingerprints([LONG.encode()]).pepper_ids[0])])
    store.add_keys([api_key("cred_b", pepper_id="lost")])
    assert find(settings(store_url=sqlite.store_url, pepper=LONG), store)
    assert "a pepper that is not in KEYRUSH_PEPPER is needed by 1 active key" in caplog.text


def test_lost_file(sqlite: Settings, store: Store) -> None:
    """A missing file is not made anew over a database that holds keys."""
    store.add_keys([api_key()])
    with pytest.raises(ConfigurationError, match=r"keyrush\.pepper is missing"):
        find(sqlite, store)
    assert not file_beside(sqlite).exists()


def test_empty_file(sqlite: Settings, store: Store) -> None:
    """An empty file is no pepper."""
    file_beside(sqlite).write_text(" \n")
    with pytest.raises(ConfigurationError, match=r"keyrush\.pepper is empty"):
        find(sqlite, store)


def test_unreadable_file(sqlite: Settings, store: Store) -> None:
    """A file that can't be read is named, with the reason."""
    file_beside(sqlite).mkdir()
    with pytest.raises(ConfigurationError, match=r"keyrush\.pepper: can't be read: "):
        find(sqlite, store)


def test_folder_that_takes_no_file(
    sqlite: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that can't be written is named, with the reason, and leaves nothing behind."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)  # in the middle of what is done without links
    with pytest.raises(ConfigurationError, match=r"can't be written: No space left on device"):
        find(sqlite, store)
    assert not list(tmp_path.glob(f"{FILE_NAME}*"))


def test_rotation(sqlite: Settings) -> None:
    """A key made under the old pepper works under new and old, and then under the new one alone."""
    url = sqlite.store_url
    old = Gate.open(settings(store_url=url, pepper=LONG))
    old.accounts.create("acct_a")
    made = old.keys.create("acct_a", "production")
    old.close()

    both = Gate.open(settings(store_url=url, pepper=f"{OTHER},{LONG}"))
    assert both.store.peppers(NOW) == {Fingerprints([LONG.encode()]).pepper_ids[0]: 1}
    both.store.refingerprint(
        made.key.id,
        Fingerprints([OTHER.encode()]).new(made.text.encode()),
        Fingerprints([OTHER.encode()]).pepper_ids[0],
        None,
    )
    both.close()

    new = Gate.open(settings(store_url=url, pepper=OTHER))
    fingerprints = Fingerprints([OTHER.encode()]).all(made.text.encode())
    found = new.store.find(fingerprints, "2026-11")
    new.close()
    assert found is not None
    assert found.key.id == made.key.id
