"""Resources that nobody may store, of `wrong.yaml`: ``WRONG`` has them by group, functions and pools.

Long values are written short there: ``!text [65, start]`` is a text of 65 characters that begins so, ``!list [17,
item]`` has 17 items, ``#`` in each being its number, and ``!map [17, value]`` has 17 keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML, and the three tags."""


def _text(loader: Loader, node: yaml.Node) -> str:
    """As long as said, its beginning included."""
    assert isinstance(node, yaml.SequenceNode)
    length, start = loader.construct_sequence(node)
    return str(start).ljust(length, "a")


def _list(loader: Loader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    count, item = loader.construct_sequence(node, deep=True)
    return [json.loads(json.dumps(item).replace("#", str(number))) for number in range(count)]


def _map(loader: Loader, node: yaml.Node) -> dict[str, Any]:
    assert isinstance(node, yaml.SequenceNode)
    count, value = loader.construct_sequence(node, deep=True)
    return {f"key{number}": value for number in range(count)}


for _tag, _made in (("!text", _text), ("!list", _list), ("!map", _map)):
    Loader.add_constructor(_tag, _made)

WRONG: dict[str, list[dict[str, Any]]] = yaml.load(Path(__file__).with_name("wrong.yaml").read_text(), Loader)
