"""Benchmarks are scripts, not a package: put their shared modules where the tests can import them."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "recommendation")]
