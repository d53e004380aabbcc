#!/usr/bin/env python3
"""What the chart repeats of crds/: copies of the files, and the schema of `workerPool.spec` in values.schema.json.

python deploy/helm/refresh.py            write both again after a change in crds/
python deploy/helm/refresh.py --check    only say what is out of date (exit status 1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "crds"
CHART = ROOT / "deploy" / "helm" / "forebay"
COPIES = CHART / "files" / "crds"
SCHEMA = CHART / "values.schema.json"

Schema = dict[str, Any]

# What means the same in a CRD and in draft 7; defaults are the API server's business.
SHARED = {
    "anyOf", "description", "enum", "maxItems", "maxLength", "maxProperties", "maximum",
    "minItems", "minLength", "minProperties", "minimum", "pattern", "required", "type",
}  # fmt: skip


def of_values(schema: Schema) -> Schema:
    """A CRD's schema as JSON Schema: an object takes what it names, unless it keeps unknown fields."""
    found = {key: value for key, value in schema.items() if key in SHARED}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in schema:
        found["properties"] = {key: of_values(inner) for key, inner in schema["properties"].items()}
        found |= {} if is_open else {"additionalProperties": False}
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = of_values(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = of_values(schema["items"])
    return found


def pool_spec() -> Schema:
    """Nothing is required here: `workerPool` asks for a nodeSelector once it is enabled."""
    crd = yaml.safe_load((CRDS / "workerpools.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    found = of_values(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    del found["required"]
    return found


def wanted() -> Iterator[tuple[Path, str]]:
    """(file, what it should say)."""
    for path in sorted(CRDS.glob("*.yaml")):
        yield COPIES / path.name, path.read_text()
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["workerPool"]["properties"]["spec"] = pool_spec()
    yield SCHEMA, json.dumps(schema, indent=2) + "\n"


def main() -> int:
    old = [(path, text) for path, text in wanted() if not path.exists() or path.read_text() != text]
    for path, text in old:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
    return 1 if old and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
