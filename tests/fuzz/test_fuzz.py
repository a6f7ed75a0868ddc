"""Fuzzers of what others may send or leave behind: `FUZZ_SECONDS` each, after the committed corpus.

What was once found is in ``corpus/TARGET/found-…``, and is tried first.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("sidecar_wire", "client_wire", "stored_state", "http_port", "model")
SECONDS = int(os.environ.get("FUZZ_SECONDS") or "60")
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "fuzz"
OPTIONS = ["-seed=1", "-max_len=2048", "-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1"]

pytestmark = pytest.mark.timeout(SECONDS + 300)


@pytest.mark.parametrize("target", TARGETS)
def test_corpus_holds(target: str) -> None:
    """Each committed test case passes, among them all that once failed."""
    check = importlib.import_module(f"tests.fuzz.{target}").check
    cases = sorted((HERE / "corpus" / target).iterdir())

    assert cases
    for case in cases:
        try:
            check(case.read_bytes())
        except Exception as error:
            raise AssertionError(f"{case.relative_to(ROOT)} fails") from error


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str) -> None:
    """No test case that the fuzzer makes in its time fails; what fails is kept in .cache/fuzz/found."""
    grown, found = CACHE / target, CACHE / "found"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", target, *OPTIONS, f"-max_total_time={SECONDS}"]
    folders = [str(grown), str(HERE / "corpus" / target)]
    result = subprocess.run([*command, f"-artifact_prefix={found}/{target}-", *folders], cwd=ROOT)

    assert result.returncode == 0, f"{target}: see above, and {found}"
