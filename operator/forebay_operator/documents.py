"""YAML documents that still know their lines, so that a problem can be shown where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from forebay_api.fields import Problem

MAX_FILE_BYTES = 1 << 20


class Unreadable(Exception):
    """A file that is no YAML. The text is for people and goes behind the file's name: ``:3: what is wrong``."""


@dataclass(frozen=True, slots=True)
class Document:
    """One mapping of a file. ``number`` counts from 1; ``repeated`` are keys given twice, which YAML lets pass."""

    number: int
    body: Mapping[str, object]
    node: yaml.MappingNode
    repeated: tuple[Problem, ...]

    def line(self, field: str) -> int:
        """The line, from 1, of the innermost part of the dotted ``field`` that the document has."""
        at: yaml.Node = self.node
        line = self.node.start_mark.line
        for part in field.split("."):
            entries = at.value if isinstance(at, yaml.MappingNode) else ()
            found = next((entry for entry in entries if entry[0].value == part), None)
            if found is None:
                break
            line, at = found[0].start_mark.line, found[1]
        return line + 1


def read(path: Path) -> Iterator[Document]:
    """The documents of ``path``, empty ones left out. Raises Unreadable, and OSError of the file system's."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable(f": larger than {MAX_FILE_BYTES >> 20} MiB, which no file of functions is")
    try:
        yield from _parse(content)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Unreadable(f"{line}: this is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a month 13, an integer of 5000 digits
        raise Unreadable(f": this is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise Unreadable(": nested too deeply") from error


def _parse(content: bytes) -> Iterator[Document]:
    loader = yaml.SafeLoader(content)
    try:
        number = 0
        while loader.check_node():
            number += 1
            node = cast("yaml.Node", loader.get_node())
            repeated = tuple(_repeated(node, "", set()))  # before constructing, which unfolds merge keys in place
            body = loader.construct_document(node)
            if body is None:
                continue
            if not isinstance(node, yaml.MappingNode):
                raise Unreadable(f":{node.start_mark.line + 1}: document {number} is no mapping of fields to values")
            yield Document(number, cast("Mapping[str, object]", body), node, repeated)
    finally:
        loader.dispose()


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[Problem]:
    """Keys given twice in one mapping. ``seen`` keeps aliases from being walked more than once."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    keys: set[object] = set()
    for key, value in node.value:
        name = f"{path}.{key.value}".lstrip(".")
        if isinstance(key, yaml.ScalarNode) and key.value in keys:
            yield Problem(name, value.value if isinstance(value, yaml.ScalarNode) else {}, "this field only once")
        keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        yield from _repeated(value, name, seen)
