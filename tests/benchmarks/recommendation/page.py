"""Write docs/recommendation.md: the tables between its marks, from docs/recommendation/results.json alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
APART = {"neighbours"}
"""Blocks that are made by another run."""
MARK = re.compile(r"(<!-- (?P<name>[a-z-]+): generated[^>]*-->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


def write_page(results: Path, page: Path) -> None:
    """Renew every marked block of the page."""
    page.write_text(renewed(json.loads(results.read_text()), page.read_text()))


def renewed(results: Results, text: str) -> str:
    """Return the page with every marked block made anew, but those that have results of their own.

    Raises:
        KeyError: A block has a name that nothing is made for.
    """
    return MARK.sub(
        lambda m: m[0] if m["name"] in APART else f"{m[1]}\n{BLOCKS[m['name']](results)}\n\n{m[3]}", text
    )


def renewed_block(text: str, name: str, block: str) -> str:
    """Return the page with one marked block replaced."""
    return MARK.sub(lambda m: f"{m[1]}\n{block}\n\n{m[3]}" if m["name"] == name else m[0], text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _share(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def _figure(one: Mapping[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return ""
    shown = _share(one["value"]) if one["is_share"] else f"{one['value']:.3g}"
    return shown if one["holds"] is not False else f"**{shown}**"


def _machine(results: Results) -> str:
    about = results["about"]
    machine, versions = about["machine"], about["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"`{results['command']}`, {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, "
        f"{named}, commit {about['commit']}, {results['taken']}: {len(results['workloads'])} workloads."
    )


def _bar(results: Results) -> str:
    tuned, held = ({f["name"]: f for f in results["figures"][k]} for k in ("tuned", "held_out"))
    both = {f["name"]: f for f in results["figures"]["all"]}
    rows = [
        [name, _bound(f), _figure(tuned.get(name)), _figure(held.get(name)), _figure(f), str(f["count"])]
        for name, f in both.items()
    ]
    return _table(("figure", "bar", "tuned", "held out", "all", "of"), rows)


def _bound(figure: Mapping[str, Any]) -> str:
    if not figure["bar"]:
        return ""
    sign, value = figure["bar"].split()
    shown = _share(float(value), 0) if figure["is_share"] else value
    return f"{'≤' if sign == '<=' else '≥'} {shown}"


def _misses(results: Results) -> str:
    missed = [f for f in results["figures"]["all"] if f["holds"] is False]
    if not missed:
        return "Every bar holds."
    lines = [f"- {f['name']}: {_figure(f).strip('*')}, asked {_bound(f)} (of {f['count']})" for f in missed]
    harmed = [d for d in results["driven"] if d["did_harm"]]
    lines += [f"- harm in the real loop: {d['workload']} from {d['start']}: {d['error']}" for d in harmed]
    return "\n".join(lines)


def _workloads(results: Results) -> str:
    rows = []
    for w in results["workloads"]:
        best, thrifty = _setting(w["best"]), _setting(w["thriftiest"])
        runs = " · ".join(f"{r['start']}→{_setting(r['final'])} ({_share(r['regret'])})" for r in w["runs"])
        held = "held out" if w["held_out"] else "tuned"
        errors = [_share(w["error_median"]), _share(w["null_error_median"])]
        rows.append([w["name"], held, best, thrifty, _share(w["noise"]), runs, *errors])
    head = (
        "workload",
        "set",
        "best",
        "thriftiest",
        "noise",
        "start→settled (regret)",
        "error",
        "null model's",
    )
    return _table(head, rows)


def _setting(setting: Sequence[int]) -> str:
    workers, prefetch = setting
    return f"{workers}" if prefetch == 2 else f"{workers}/{prefetch}"


def _incumbents(results: Results) -> str:
    rows = [[name, _share(r["total"] - 1), _share(r["regret"])] for name, r in results["incumbents"].items()]
    return _table(
        ("rule", "10 epochs: time beyond the oracle's", "regret at the end"), sorted(rows, key=_key)
    )


def _key(row: Sequence[str]) -> float:
    return float(row[1].rstrip("%"))


def _driven(results: Results) -> str:
    rows = []
    for d in results["driven"]:
        went = " ".join(_setting(s) for s in d["settings"])
        oracle = "" if d["oracle_seconds"] is None else f"{d['oracle_seconds']:.1f} s"
        harm = "**yes**" if d["did_harm"] else "none"
        times = [f"{sum(d['seconds']):.1f} s", f"{sum(d['user_seconds']):.1f} s", oracle]
        rows.append([d["workload"], str(d["start"]), went, *times, str(d["slower_epochs"]), harm])
    head = ("workload", "start", "num_workers by epoch", "time", "user's own", "oracle's", "slower", "harm")
    return _table(head, rows)


def _pairs(results: Results) -> str:
    rows = [
        [
            p["workload"],
            _setting(p["chosen"]),
            _setting(p["best"]),
            _share(p["regret"]),
            f"{_share(p['low'])} to {_share(p['high'])}",
        ]
        for p in results["pairs"]
    ]
    return _table(("workload", "chosen", "best", "regret", "interval"), rows)


def _what_if(results: Results) -> str:
    rows = [
        [
            w["workload"],
            str(w["start"]),
            f"{w['from_cores']:g} → {w['to_cores']:g}",
            f"{w['predicted']:.0f}",
            f"{w['measured']:.0f}",
            _share(w["error"]),
        ]
        for w in results["what_if"]
    ]
    return _table(("workload", "seen at", "cores", "predicted/s", "measured/s", "error"), rows)


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "machine": _machine,
    "bar": _bar,
    "misses": _misses,
    "workloads": _workloads,
    "incumbents": _incumbents,
    "driven": _driven,
    "pairs": _pairs,
    "what-if": _what_if,
}
