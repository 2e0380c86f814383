"""The Rushed example: where it is, and its app."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from starlette.applications import Starlette

from keyrush.gate.gate import Gate


def examples() -> Path:
    """The folder with rushed.py: in the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


def load(path: Path, gate: Gate) -> Starlette:
    """The app that the module at `path` makes, behind the gate.

    Raises:
        FileNotFoundError: There is no such module.
    """
    spec = importlib.util.spec_from_file_location("rushed", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: Starlette = module.create_app(gate=gate)
    return app
