"""What the doctor has found, and how grave it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import keyrush
from keyrush.runtime.cpus import cores

#: Exit codes: as documented for all commands; 1 is for a warning.
WARNING, SETTINGS, STORE = 1, 2, 3

#: How often what requests do is tried: drivers do it in another way once they have done it often.
TRIES = 12

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Warnings and problems are what is wrong."""

    level: Level
    about: str
    text: str


@dataclass(slots=True)
class Report:
    """What the doctor found. No secret is in it."""

    version: str = keyrush.__version__
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    active_keys: int | None = None
    argon2_ms: float | None = None
    cores: int = field(default_factory=cores)
    exit_code: int = 0

    def add(self, level: Level, about: str, text: str, exit_code: int = 0) -> None:
        """Add a finding. The gravest exit code stands."""
        self.findings.append(Finding(level, about, text))
        self.exit_code = max(self.exit_code, exit_code, WARNING if level == "warning" else 0)
