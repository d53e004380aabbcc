"""Functions from YAML files: the source of resources where there is no cluster.

A file holds any number of documents and is taken as a whole or not at all: one that became wrong keeps the functions
of its last good version until it is right again.
"""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from watchfiles import awatch

from forebay_api import names
from forebay_api.fields import Problem
from forebay_api.function import Function, FunctionKey, InvalidFunction
from forebay_operator import documents

SUFFIXES = (".yaml", ".yml")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class LoadedFunctions:
    """What the files say now. ``problems`` are lines for people, each with file, line and document."""

    functions: dict[FunctionKey, Function]
    problems: tuple[str, ...]


class InvalidFile(Exception):
    """A file that cannot be applied; ``problems`` are lines for people."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class FunctionFiles:
    """Files, and folders whose ``*.yaml`` and ``*.yml`` are taken. ``${NAME}`` in ``spec.model.uri`` is the variable
    of that name in ``environ``, so that an example need not know where a person keeps models. ``home``: the namespace
    of those that name none."""

    def __init__(
        self,
        paths: Sequence[Path],
        environ: Mapping[str, str] = os.environ,
        home: str = names.DEFAULT_NAMESPACE,
    ) -> None:
        self._paths = tuple(paths)
        self._environ = environ
        self._home = home
        self._good: dict[Path, tuple[Function, ...]] = {}
        self._owner: dict[FunctionKey, Path] = {}
        # Also of deleted functions: one that comes back has the same uid, so its generation goes on from there.
        self._known: dict[FunctionKey, Function] = {}

    def load(self) -> LoadedFunctions:
        """Read everything again. Never raises for what a file holds: that is a problem in the answer."""
        problems: list[str] = []
        good: dict[Path, tuple[Function, ...]] = {}
        for path in self._files(problems):
            try:
                good[path] = tuple(_functions(path, self._environ, self._home))
            except FileNotFoundError:
                continue  # gone since it was listed
            except InvalidFile as invalid:
                problems += invalid.problems
                if path in self._good:
                    good[path] = self._good[path]
        self._good = good
        return LoadedFunctions(self._merge(problems), tuple(problems))

    async def watch(self) -> AsyncIterator[LoadedFunctions]:
        """What the files say now, then again after every change that makes a difference. Ends when cancelled."""
        last = await asyncio.to_thread(self.load)
        yield last
        looked = False
        async for changes in awatch(
            *self._folders(), watch_filter=self._concerns, recursive=False, yield_on_timeout=True
        ):
            if looked and not changes:
                continue
            looked = True  # once at the first time-out at the latest: something may have changed before it watched
            loaded = await asyncio.to_thread(self.load)
            if loaded != last:
                last = loaded
                yield loaded

    def _files(self, problems: list[str]) -> Iterator[Path]:
        for path in self._paths:
            if path.is_dir():
                yield from sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
            elif path.exists():
                yield path
            elif path not in self._good:
                problems.append(f"{path}: there is no such file")

    def _folders(self) -> set[Path]:
        """What to watch. Of a file its folder: editors replace files, and a watch on a file would stay with the old."""
        return {path if path.is_dir() else _existing(path.absolute().parent) for path in self._paths}

    def _concerns(self, _change: object, changed: str) -> bool:
        path = Path(changed)
        return path.suffix in SUFFIXES or any(path.name == given.name for given in self._paths)

    def _merge(self, problems: list[str]) -> dict[FunctionKey, Function]:
        """All functions by key. Of two with one name, the file that had it goes on having it, else the first."""
        owners: dict[FunctionKey, Path] = {}
        found: dict[FunctionKey, Function] = {}
        for path, function in [(path, function) for path, held in self._good.items() for function in held]:
            key = function.key
            if key in owners:
                problems.append(f"{path}: {key} is also in {owners[key]}, and a function can be in one place only")
                if self._owner.get(key) != path or owners[key] == path:
                    continue
            owners[key], found[key] = path, function
        self._owner = owners
        return {key: self._known_as(function) for key, function in found.items()}

    def _known_as(self, function: Function) -> Function:
        """The function with its uid, and with the generation and creation time that follow from what was known."""
        known = self._known.get(function.key)
        if known is None:
            uid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"forebay:{function.key}"))
            known = replace(function, uid=uid, generation=1)
        elif known.spec != function.spec:
            known = replace(known, spec=function.spec, generation=known.generation + 1)
        self._known[function.key] = known
        return known


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.is_dir())


def _functions(path: Path, environ: Mapping[str, str], home: str) -> Iterator[Function]:
    """The functions of one file, created when it was written. Raises InvalidFile with all that is wrong."""
    created = path.stat().st_mtime
    problems: list[str] = []
    functions: list[Function] = []
    try:
        for document in documents.read(path):
            found = list(document.repeated)
            try:
                function = Function.from_body(_at_home(_expand(document.body, environ, found), home))
                functions.append(replace(function, created=function.created or created))
            except InvalidFunction as invalid:
                found += invalid.problems
            problems += [f"{path}:{document.line(p.field)} (document {document.number}): {p}" for p in found]
    except documents.Unreadable as unreadable:
        problems.append(f"{path}{unreadable}")
    if problems:
        raise InvalidFile(problems)
    yield from functions


def _at_home(body: Mapping[str, object], home: str) -> Mapping[str, object]:
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("namespace") is not None:
        return body
    return {**body, "metadata": {**metadata, "namespace": home}}


def _expand(body: Mapping[str, object], environ: Mapping[str, str], problems: list[Problem]) -> Mapping[str, object]:
    """``body`` with the variables in ``spec.model.uri`` replaced; one that is not set is a problem."""
    spec = body.get("spec")
    model = spec.get("model") if isinstance(spec, Mapping) else None
    uri = model.get("uri") if isinstance(model, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(model, Mapping) or not isinstance(uri, str):
        return body
    unset = [name for name in dict.fromkeys(VARIABLE.findall(uri)) if not environ.get(name)]
    problems += [Problem("spec.model.uri", uri, f"the environment variable {name} to be set") for name in unset]
    # A missing one stands for a root, so that it is not also reported as a wrong uri.
    expanded = VARIABLE.sub(lambda match: environ.get(match[1]) or "/", uri)
    return {**body, "spec": {**spec, "model": {**model, "uri": expanded}}}
