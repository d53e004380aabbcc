"""Python imports this by itself where this folder is on PYTHONPATH: torch, once imported, finds the emulated cards."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Finder(importlib.abc.MetaPathFinder):
    """Finds torch, once, as everybody else does, and has the cards installed after it."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            import card

            card.install()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # this one loader's alone
        return spec


sys.meta_path.insert(0, Finder())
