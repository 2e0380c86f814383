"""How many proofs run at once: by cores, by what a container may use of them, or as set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate
from keyrush.runtime import cpus
from tests.conftest import settings


def tree(tmp_path: Path, files: dict[str, str], own: str = "0::/\n") -> tuple[Path, Path]:
    """A cgroup file system with these files, and what the kernel says of this process."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    said = tmp_path / "self"
    said.write_text(own)
    return root, said


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        pytest.param({}, "0::/\n", None, id="nothing said"),
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", None, id="v2, none"),
        pytest.param({"cpu.max": "200000 100000\n"}, "0::/\n", 2.0, id="v2, in a container"),
        pytest.param({"a/b/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5, id="v2, own group"),
        pytest.param(
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"},
            "0::/a/b\n",
            3.0,
            id="v2, the group above",
        ),
        pytest.param(
            {"a/cpu.max": "300000 100000\n", "cpu.max": "150000 100000\n"},
            "0::/a\n",
            1.5,
            id="v2, the narrowest",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "4:memory:/m\n3:cpu,cpuacct:/\n",
            2.5,
            id="v1",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "3:cpu,cpuacct:/\n",
            None,
            id="v1, none",
        ),
        pytest.param({"cpu.max": "rubbish\n"}, "0::/\n", None, id="rubbish"),
        pytest.param({"cpu.max": "100000 0\n"}, "rubbish", None, id="no period"),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], own: str, expected: float | None) -> None:
    """What a control group leaves a container is read in both versions, the narrowest one."""
    assert cpus.quota(*tree(tmp_path, files, own)) == expected


@pytest.mark.parametrize(
    ("cores", "quota", "slots"),
    [
        (64, 2.0, 2),
        (64, 0.5, 1),
        (64, 1.2, 2),
        (64, None, 4),
        (2, None, 2),
        (2, 8.0, 2),
        (1, 0.1, 1),
    ],
)
def test_slots(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, slots: int
) -> None:
    """64 visible cores of a container that may use two are two; never more than four by itself."""
    monkeypatch.setattr(cpus, "cores", lambda: cores)
    monkeypatch.setattr(cpus, "quota", lambda: quota)
    assert cpus.hashing_slots() == slots
    assert cpus.hashing_slots(7) == 7


def test_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYRUSH_ARGON2_SLOTS says it for both: threads of the event loop's, and those of servers."""
    gate = Gate.open(settings(argon2_slots=3))
    assert gate.workers._sizes["hash"] == 3  # noqa: SLF001  # what is set
    api_keys: Any = gate.finishing.verification.authenticators[0]
    assert api_keys._argon2_slots._value == 3  # noqa: SLF001  # see above
    gate.close()
