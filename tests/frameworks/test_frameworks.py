"""Training under ``feedwater run --mode auto`` is what it is without, in the frameworks that people use.

Each case of `framework_cases` runs twice, plain and watched, by the framework's own trainer. What one loop
must come to is said there; here, what holds for all.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.frameworks.framework_cases import CASES, Case, is_oldest_torch
from tests.frameworks.framework_runs import CHANGE, PAIRS, Pair, Rank, train

WATCHED = (sys.executable, "-m", "feedwater", "run", "--mode", "auto", "--")
DESCRIPTORS = 6
"""More of them than without Feedwater are no leak: of a ring for each loader, of the pipe to the relay."""
DESCRIPTORS_OF_WORKER = 4
"""Of the queue and the sentinel of a worker that is alive when they are counted."""
SHOWN = 3000
"""Characters of what a training printed, where a test fails."""

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(0)]


def parameters() -> list[object]:
    """Return the cases; those that only `make nightly` runs are marked."""
    is_oldest = is_oldest_torch()
    return [
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.nightly] if case.nightly or (is_oldest and not case.on_oldest) else [],
        )
        for case in CASES
    ]


@pytest.fixture(scope="module", params=parameters())
def pair(request: pytest.FixtureRequest) -> Pair:
    case: Case = request.param
    command = [*case.under, str(case.path), *([case.argument] if case.argument else [])]
    is_nightly = request.config.getoption("-m") == "frameworks"
    environ = case.environ | (case.nightly_environ if is_nightly else {})
    with ThreadPoolExecutor(2) as both:
        # Beside each other: most of a training here is sleep, or the import of a framework on one core.
        plain, watched = both.map(
            lambda under: train(
                command, under=under, most_descriptors=case.most_descriptors, environ=environ
            ),
            [(), WATCHED],
        )
    made = Pair(case, plain, watched)
    request.config.stash[PAIRS].append(made)
    return made


def test_exit_code_is_the_training_s_own(pair: Pair) -> None:
    """The code of the plain run, which is the one that the script is written for."""
    codes, expected = (pair.plain.code, pair.watched.code), (pair.case.code, pair.case.code)
    assert codes == expected, pair.plain.errors[-SHOWN:] + pair.watched.errors[-SHOWN:]


def test_samples_are_the_same_in_the_same_order(pair: Pair) -> None:
    """Each batch of each loader of each rank has the ids that it has without Feedwater."""
    plain, watched = ([rank.ids for rank in run.ranks] for run in (pair.plain, pair.watched))
    assert len(plain) >= pair.case.ranks
    assert watched == plain


def test_workers_change_where_that_is_safe_and_nowhere_else(pair: Pair) -> None:
    """More workers load the last batch than the first, or as many, as the case says."""
    found = {
        (rank.rank, loader): (workers[0], workers[-1], {*workers})
        for rank in pair.watched.ranks
        for loader, workers in rank.workers.items()
    }
    tuned = {of: seen for of, seen in found.items() if of[1] in pair.case.tuned}
    changed = {of: seen for of, seen in found.items() if of[1] in pair.case.changed}
    kept = {of: seen for of, seen in found.items() if of[1] in pair.case.kept}
    assert {loader for _, loader in found} >= {*pair.case.tuned, *pair.case.changed, *pair.case.kept}
    assert [seen for seen in tuned.items() if seen[1][1] <= seen[1][0]] == [], told(pair)
    assert [seen for seen in changed.items() if seen[1][1] == seen[1][0]] == [], told(pair)
    assert [seen for seen in kept.items() if len(seen[1][2]) > 1] == [], told(pair)


def test_no_change_is_made_that_is_predicted_to_lose(pair: Pair) -> None:
    """No line says of a change that it is for fewer batches/s."""
    assert [line for line in pair.watched.said if re.search(r"→ .* for -\d", line)] == []


def test_log_says_what_is_done_or_why_it_is_not(pair: Pair) -> None:
    """Each pattern of the case is in a line, and so is each change; no line is cut."""
    said = pair.watched.said
    missing = [pattern for pattern in pair.case.said if not any(re.search(pattern, line) for line in said)]
    assert missing == [], told(pair)
    has_change = any(CHANGE.search(line) for line in said)
    assert has_change or not (pair.case.tuned or pair.case.changed), told(pair)
    # An epoch's line has its limit of characters; reasons that it does not hold follow in lines of their own.
    assert [line for line in said if "…" in line and ": epoch " not in line] == []


def test_table_at_the_end_has_a_row_for_each_loader(pair: Pair) -> None:
    """A row for each loader, a name that a person recognises, a verdict, and a sentence below."""
    rows, loaders = pair.watched.rows, len(pair.case.labels)
    assert loaders <= len(rows) <= loaders * pair.case.ranks, told(pair)
    unnamed = [label for label in pair.case.labels if not any(label in row for row in rows)]
    assert unnamed == [], told(pair)
    sentences = pair.watched.sentences
    unclear = [row.split()[0] for row in rows if "UNKNOWN" in row]
    assert [name for name in unclear if not is_said_to_be_unclear(name, sentences)] == [], told(pair)
    assert sentences != [], told(pair)


def test_descriptors_stay_flat(pair: Pair) -> None:
    """From the first epoch or evaluation on no more files are open than without, but for a ring each."""
    plain, watched = ([growth(rank) for rank in run.ranks] for run in (pair.plain, pair.watched))
    assert len(watched) == len(plain)
    more = [after - before for before, after in zip(plain, watched, strict=True)]
    # Those of a rank's loaders live at once where they persist.
    workers = max(sum(map(max, rank.workers.values())) for rank in pair.watched.ranks)
    assert max(more, default=0) <= DESCRIPTORS + DESCRIPTORS_OF_WORKER * workers


def test_no_process_stays(pair: Pair) -> None:
    """Ten seconds after its end nothing runs of a training."""
    assert (pair.plain.left, pair.watched.left) == ([], [])


def growth(rank: Rank) -> int:
    """Return how many more descriptors were ever open after an epoch than after the first."""
    return max(rank.descriptors, default=0) - min(rank.descriptors[:1], default=0)


def is_said_to_be_unclear(loader: str, sentences: list[str]) -> bool:
    """Return whether the verdict UNKNOWN is what was recommended for, not that nothing was asked."""
    return any(said.startswith(loader) and "the cause is not clear" in said for said in sentences)


def told(pair: Pair) -> str:
    """Return what the watched training printed last."""
    return pair.watched.errors[-SHOWN:]
