"""One table of verdicts: whoever reads of one, wherever it is, reads the words of `feedwater.verdicts`."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from feedwater.status.words import verdict_phrase
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.verdicts import VERDICTS, Remedy
from feedwater_service.model.types import Verdict
from tests import ROOT

PAGE = ROOT / "service/web/src/words.ts"
BUILT_PAGE = ROOT / "service/feedwater_service/web/assets/page.js"
FILES = ROOT / "deploy/helm/feedwater/files"
TONES = {Remedy.NOTHING: "good", Remedy.UNKNOWN: "plain"}
"""How the page shows a verdict by its remedy; the others warn."""


def _on_the_page() -> dict[str, tuple[str, str, str]]:
    """Return title, text and tone of each verdict in the page's source."""
    text = r'"((?:[^"\\]|\\.)*)"'
    entry = rf"(\w+)(?:: Verdict =|:) \{{\s*title: {text},\s*text: {text},\s*tone: {text},?\s*\}}"
    return {name: (title, said, tone) for name, title, said, tone in re.findall(entry, PAGE.read_text())}


def _in_the_runbook() -> list[tuple[str, str, str]]:
    """Return name, meaning and what to do of each row of the runbook's table."""
    text = (ROOT / "docs/runbooks.md").read_text()
    section = text.partition("\n## What each verdict asks for\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", section, re.MULTILINE)


def _descriptions() -> list[str]:
    """Return the descriptions of the two alerts of starvation."""
    (group,) = yaml.safe_load((FILES / "prometheus/feedwater.alerts.yaml").read_text())["groups"]
    starved = ("FeedwaterStarved", "FeedwaterDeviceStarved")
    return [rule["annotations"]["description"] for rule in group["rules"] if rule["alert"] in starved]


def test_table_has_the_verdicts_of_model_and_wire() -> None:
    """No more and no fewer than the model gives and the wire carries."""
    on_the_wire = {name.removeprefix("VERDICT_") for name in dict(pb.Verdict.items())} - {"UNSPECIFIED"}
    assert VERDICTS.keys() == {verdict.value for verdict in Verdict} == on_the_wire


@pytest.mark.parametrize("name", VERDICTS)
def test_words_are_written_as_they_are_read(name: str) -> None:
    """Titles and sentences begin with a capital, a phrase goes on after a colon; sentences end in a stop."""
    words = VERDICTS[name]
    assert re.fullmatch(r"[A-Z].{3,20}", words.title)
    assert re.fullmatch(r"([a-z/]|CPU).{8,50}[^.]", words.phrase)
    assert re.fullmatch(r"[A-Z].{20,90}\.", words.meaning)
    assert re.fullmatch(r"([A-Z].{10,140}\.)?", words.action)


def test_terminal_has_the_phrases() -> None:
    """`feedwater status` prints the phrase; of a verdict that a newer sidecar has, the name."""
    assert {name: verdict_phrase(name) for name in VERDICTS} == {n: w.phrase for n, w in VERDICTS.items()}
    assert verdict_phrase("TOO_NEW") == "TOO_NEW"


def test_page_has_the_titles_and_meanings() -> None:
    """The live page has the same titles and sentences, as source and as built, in the tone of the remedy."""
    expected = {n: (w.title, w.meaning, TONES.get(w.remedy, "warn")) for n, w in VERDICTS.items()}
    assert _on_the_page() == expected
    built = BUILT_PAGE.read_text()
    assert [n for n, w in VERDICTS.items() if w.title not in built or w.meaning not in built] == []


@pytest.mark.parametrize("dashboard", ["feedwater-job", "feedwater-cluster"])
def test_dashboards_have_one_colour_for_each_remedy(dashboard: str) -> None:
    """Verdicts of one remedy have one colour, those of different remedies different ones."""
    text = (FILES / f"dashboards/{dashboard}.json").read_text()
    found = re.findall(r'\{\s*"color": ("[^"]+"),\s*"index": \d+,\s*"text": ("[A-Z_]+")\s*\}', text)
    colours = {json.loads(name): json.loads(colour) for colour, name in found}
    assert colours.keys() == VERDICTS.keys()
    by_remedy = {(VERDICTS[name].remedy, colour) for name, colour in colours.items()}
    assert len(by_remedy) == len(set(colours.values())) == len(Remedy)


def test_alerts_say_what_to_do() -> None:
    """Each action is a branch of the descriptions; only those that figures follow, or a number, have none."""
    without = {"UNKNOWN", "NOT_STARVED", "TOO_FEW_WORKERS", "TOO_MANY_WORKERS", "MEMORY", "SHARED_MEMORY"}
    assert {name for name, words in VERDICTS.items() if not words.action} == without
    descriptions = _descriptions()
    assert len(descriptions) == 2
    for description in descriptions:
        branches = dict(re.findall(r'if eq \$verdict "(\w+)" \}\} ([^{]+)', description))
        assert branches.keys() == VERDICTS.keys() - without | {"MEMORY", "SHARED_MEMORY"}
        for name in branches.keys() - without:
            assert branches[name].strip() == VERDICTS[name].action


def test_runbook_has_a_row_for_each() -> None:
    """Each verdict once, with the phrase that the terminal shows, and what to do."""
    rows = _in_the_runbook()
    assert len(rows) == len(VERDICTS)
    assert {name: phrase for name, phrase, _ in rows} == {n: w.phrase for n, w in VERDICTS.items()}
    assert all(len(what) > 10 for _, _, what in rows)
