"""Tests against a real kube-apiserver without nodes. Each skip names what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
