"""Fuzz one target, guided by coverage: ``python -m tests.fuzz.run TARGET [libFuzzer's options and folders]``.

``python -m tests.fuzz.run model .cache/fuzz/found/model-crash-…`` runs one test case again.
"""

from __future__ import annotations

import importlib
import sys

import atheris

from tests.fuzz import TARGETS

SOURCES = ["feedwater", "feedwater_service"]


def main() -> None:
    """Fuzz until an option of libFuzzer ends it, or a test case fails."""
    target, *options = sys.argv[1:]
    assert target in TARGETS, f"expected one of {TARGETS}"
    with atheris.instrument_imports(include=SOURCES):
        check = importlib.import_module(f"tests.fuzz.{target}").check
    atheris.Setup([sys.argv[0], *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
