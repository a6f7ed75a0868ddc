"""Fuzzers of what others may send or leave behind: `FUZZ_SECONDS` each, after the committed corpus.

What was once found is in ``corpus/TARGET/found-…``, and is tried first.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import ROOT
from tests.fuzz import TARGETS

SECONDS = int(os.environ.get("FUZZ_SECONDS") or "60")
HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "fuzz"
FOUND = CACHE / "found"
OPTIONS = ["-seed=1", "-max_len=2048", "-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1"]

pytestmark = pytest.mark.timeout(len(TARGETS) * SECONDS + 300)


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


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[dict[str, Future[int]]]:
    """Fuzz all targets, as many at once as there are CPUs; the result of each is its exit status."""
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        yield {target: pool.submit(fuzz, target) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str, fuzzing: dict[str, Future[int]]) -> None:
    """No test case that the fuzzer makes in its time fails; what fails is kept in .cache/fuzz/found."""
    assert fuzzing[target].result() == 0, f"{target}: see above, and {FOUND}"


def fuzz(target: str) -> int:
    """Fuzz one target for `SECONDS` of wall time, and return its exit status."""
    grown = CACHE / target
    for folder in (grown, FOUND):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", target, *OPTIONS, f"-max_total_time={SECONDS}"]
    folders = [str(grown), str(HERE / "corpus" / target)]
    return subprocess.run([*command, f"-artifact_prefix={FOUND}/{target}-", *folders], cwd=ROOT).returncode
