"""The live page in a real Chromium, beside a real sidecar."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from feedwater.v1 import feedwater_pb2 as pb
from tests import ROOT
from tests.e2e.trainings import training
from tests.support.chromium import Chromium, chromium
from tests.support.processes import Sidecar, free_port, sidecar
from tests.support.rank import Rank

pytestmark = pytest.mark.real

TRAINER = "tests.integration.end_to_end.samples_trainer"
WORK = {
    "watched": True,
    "mode": "auto",
    "kind": "sleep",
    "samples": 400,
    "batch_size": 4,
    "workers": 1,
    "epochs": 400,
    "load_seconds": 0.006,
    "step_seconds": 0.004,
}
AXE = ROOT / "service/web/node_modules/axe-core/axe.min.js"
HOSTILE = (
    "<img src=x onerror=window.caught=1>",
    "<script>window.caught=1</script>",
    "\"'><b>bold</b>\n\n&lt;i&gt;",
    "x" * 10_000,
    "${7*7} {{7*7}} %s ü☃ \u202e",
    "javascript:window.caught=1",
)


class Shown:
    """The page of one sidecar in the browser."""

    def __init__(self, browser: Chromium, server: Sidecar) -> None:
        self.browser = browser
        self.url = f"http://127.0.0.1:{server.http_port()}/"

    def open(self, **look: object) -> Shown:
        """Load the page as a screen of this size and taste would."""
        self.browser.look(**look)  # type: ignore[arg-type]
        self.browser.driver.get(self.url)
        self.says("Live")
        return self

    def says(self, *words: str) -> None:
        """Wait until the page shows all these words."""
        shown = self.browser.text
        self.browser.until(lambda: all(word in shown() for word in words), f"{words} shown")

    def count(self, selector: str) -> int:
        """Return how many elements there are."""
        return int(
            str(self.browser.script("return document.querySelectorAll(arguments[0]).length", selector))
        )

    def value(self, expression: str) -> object:
        """Return what an expression is in the page."""
        return self.browser.script(f"return {expression}")

    def said(self) -> dict[str, Any]:
        """Return what the sidecar recommends to its only loader."""
        with urllib.request.urlopen(f"{self.url}api/v1/state", timeout=10) as answer:
            (loader,) = json.load(answer)["loaders"]
        return dict(loader["recommendation"])

    def answers(self) -> int:
        """Return how often the state was read."""
        code = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/state')).length"
        return int(str(self.value(code)))

    def read_again(self, times: int = 2) -> None:
        """Wait until the state has been read anew."""
        before = self.answers()
        self.browser.until(lambda: self.answers() >= before + times, "the state read again")

    def violations(self) -> list[str]:
        """Return what axe-core finds that is serious or critical."""
        assert AXE.exists(), f"{AXE} is missing: service/web/install.sh"
        self.browser.script(AXE.read_text())
        found = self.browser.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run().then(r => done(r.violations))"
        )
        return [
            f"{v['id']}: {[node['html'][:120] + node['failureSummary'] for node in v['nodes'][:3]]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """A browser for all tests here."""
    with chromium() as one:
        yield one


@pytest.fixture
def server() -> Iterator[Sidecar]:
    """A sidecar on a port that it can have again after its death."""
    address = {"FEEDWATER_HTTP_PORT": str(free_port()), "FEEDWATER_HTTP_HOST": "127.0.0.1"}
    with sidecar(environment=address) as one:
        yield one


@pytest.fixture
def page(browser: Chromium, server: Sidecar) -> Iterator[Shown]:
    """The page of the sidecar; whatever a test does, the console stays silent."""
    browser.complaints()
    yield Shown(browser, server)
    complaints = browser.complaints()
    browser.driver.get("about:blank")
    assert complaints == []


@pytest.fixture
def rank(server: Sidecar) -> Iterator[Callable[..., Rank]]:
    """Make training processes of the pod."""
    with contextlib.ExitStack() as stack:

        def make(**given: Any) -> Rank:
            made = Rank(server.address, **given)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def settled(rank: Callable[..., Rank]) -> Rank:
    """A loader that starved, was given more workers, and trained another epoch with them."""
    one = rank()
    one.register()
    one.epoch()
    workers = one.decide()
    one.epoch(number=1, workers=min(workers, 6), wait=0.001)
    return one


def test_without_a_loader_it_says_what_to_do(page: Shown) -> None:
    """The two lines to add, and the command that needs none."""
    page.open()
    page.says("No loader yet", "import feedwater", 'feedwater.watch(loader, name="train")', "feedwater run")
    assert page.count("canvas") == 0


def test_real_training_is_followed_without_a_reload(page: Shown, server: Sidecar) -> None:
    """Opened before the training: the loader, what is said of it, and epoch after epoch come by themselves.

    What the sidecar makes of a busy machine is its own affair: the page shows what the sidecar says.
    """
    page.open()
    page.says("No loader yet")
    page.browser.script("window.loadedOnce = true")
    with training(TRAINER, WORK, server):
        page.says("train", "Starvation, now", "Now: wait and step of each batch")
        page.says("Recommended after epoch", "Evidence", "Decisions", "Predicted speed by number of workers")
        page.browser.until(lambda: page.said()["sentence"] in page.browser.text(".answer"), "its sentence")
        page.browser.until(lambda: page.count(".evidence li") == len(page.said()["evidence"]), "its evidence")
        epoch = page.said().get("epoch", 0)
        page.browser.until(lambda: page.said().get("epoch", 0) > epoch, "a later epoch")
        page.browser.until(
            lambda: page.said()["sentence"] in page.browser.text(".answer"), "the new sentence"
        )
        page.browser.until(lambda: page.count("canvas") >= 3, "three charts drawn")
    assert page.value("window.loadedOnce") is True
    assert "train" in page.browser.driver.title


def test_answer_is_shown_with_evidence_prediction_and_decision(page: Shown, settled: Rank) -> None:
    """Verdict in words, the limit, throttling, memory, /dev/shm, and what became of the decision."""
    page.open()
    page.says("vision / resnet-0", "train", "Too few workers", "66% starvation", "Applied")
    page.says("of 4 cores", "throttled in 25% of periods", "3 GiB", "of 8 GiB", "200 MiB", "of 1 GiB")
    page.says("Memory of each worker", "epoch 1, 60 of 60 batches")


def test_figures_behind_the_charts_are_tables(page: Shown, settled: Rank) -> None:
    """Each chart has a name, a sentence and a table; measured and predicted stand in one row."""
    page.open()
    page.says("Predicted speed by number of workers")
    assert page.count("[role=img][aria-label]") == page.count("canvas") >= 4
    assert page.count("figure details table") == page.count("canvas")
    page.browser.script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.says("predicted batches/s", "proportional (PSS)", "122 MiB", "180 MiB", "throttled")


def test_refusal_is_shown_with_its_reason(page: Shown, rank: Callable[..., Rank]) -> None:
    """A recommendation that was not applied says why."""
    one = rank()
    one.register()
    one.epoch()
    one.decide(detail="Not applied: data.bin is open for reading.")
    page.open()
    page.says("Refused", "Not applied: data.bin is open for reading.")


def test_no_recommendation_comes_with_its_reason(page: Shown, rank: Callable[..., Rank]) -> None:
    """In mode observe nothing is recommended, and the page says so."""
    one = rank()
    one.register(mode=pb.MODE_OBSERVE)
    one.epoch()
    page.open()
    page.says("No recommendation yet", "observe: measured, nothing recommended")


def test_waiting_of_a_cuda_job_is_host_wait(page: Shown, rank: Callable[..., Rank]) -> None:
    """Without evidence from the device the share of waiting is not called starvation."""
    one = rank()
    one.register(cuda=True)
    one.epoch()
    one.decide()
    page.open()
    page.says("Host wait, now", "67%")
    assert "starvation" not in page.browser.text(".tiles").lower()
    assert "starvation" not in page.browser.text(".grid").lower()


def test_all_loaders_and_ranks_are_listed_first(page: Shown, rank: Callable[..., Rank]) -> None:
    """Two ranks of two loaders: four lines, one of them in full, another at a click."""
    for number in range(2):
        one = rank(rank=number, world=2)
        for loader in ("train", "valid"):
            one.register(loader)
            one.epoch(loader)
    page.open()
    page.says("Loaders", "train · rank 0", "train · rank 1", "valid · rank 0", "valid · rank 1")
    page.browser.script("[...document.links].find(a => a.textContent == 'valid · rank 1').click()")
    page.browser.until(lambda: page.browser.text("h2#loader") == "valid · rank 1", "the other loader in full")


def test_hostile_names_are_text(page: Shown, server: Sidecar, rank: Callable[..., Rank]) -> None:
    """Markup, quotes, line breaks, 10 KB: shown as they are (at most 128 characters), and nothing runs."""
    one = rank()
    for name in HOSTILE:
        one.register(name)
        one.epoch(name)
    page.open()
    page.says("<img src=x", "<script>window.caught=1</script>", "<b>bold</b>", "xxxxxxxx", "{{7*7}}")
    for number in range(len(HOSTILE)):
        page.browser.script("document.links[arguments[0] + 1].click()", number)
        page.read_again(1)
    assert page.count("main img, main script, main b") == 0
    assert page.value("window.caught") is None
    page.browser.look(width=360)
    page.read_again()
    assert page.value("document.documentElement.scrollWidth") == 360


def test_hostile_names_of_pod_job_and_namespace_are_text(page: Shown, rank: Callable[..., Rank]) -> None:
    """The same for what the environment of the trainer says of its pod."""
    one = rank(pod=HOSTILE[:3])
    one.register()
    one.epoch()
    page.open()
    page.browser.script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.says("<img src=x", "<script>window.caught=1</script>", "<b>bold</b>")
    assert page.count("img, main script, b") == 0
    assert page.value("window.caught") is None


def test_bytes_that_are_no_utf8_reach_no_page(
    page: Shown, server: Sidecar, rank: Callable[..., Rank]
) -> None:
    """A name in another encoding is refused at the door; the page goes on."""
    rank().register("train")
    message = pb.RegisterLoaderRequest(
        identity=pb.Identity(client_id="raw"), loader="name", settings=pb.LoaderSettings()
    )
    raw = message.SerializeToString().replace(b"name", b"\xff\xfe\x80!")
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/feedwater.v1.FeedwaterService/RegisterLoader")(raw, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    page.open()
    page.says("train")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(page: Shown, settled: Rank, dark: bool) -> None:
    """Contrast, names, landmarks, headings, order: with everything unfolded, in both colours."""
    page.open(dark=dark)
    page.says("Too few workers", "Decisions")
    page.browser.script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.violations() == []


def test_axe_finds_nothing_serious_on_the_empty_page(page: Shown) -> None:
    """Likewise before there is a loader."""
    page.open()
    page.says("No loader yet")
    assert page.violations() == []


def test_dark_screens_get_a_dark_page(page: Shown, settled: Rank) -> None:
    """The ground follows the reader's preference, at once, and so do the charts."""
    ground = "getComputedStyle(document.body).backgroundColor"
    brightness = f"{ground}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    page.open()
    page.says("Decisions")
    assert int(str(page.value(brightness))) > 600
    page.browser.look(dark=True)
    page.browser.until(lambda: int(str(page.value(brightness))) < 150, "a dark ground")


@pytest.mark.parametrize("width", [360, 768])
def test_narrow_screens_need_no_sideways_scrolling(
    page: Shown, settled: Rank, rank: Callable[..., Rank], width: int
) -> None:
    """With several loaders and every table unfolded the page is no wider than a phone, and charts fit."""
    other = rank(rank=1)
    other.register("validation-of-a-very-long-name-" * 3)
    other.epoch("validation-of-a-very-long-name-" * 3)
    page.open(width=width)
    page.says("Loaders", "Decisions")
    page.browser.script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.read_again()
    assert page.value("document.documentElement.scrollWidth") == width
    rights = "[...document.querySelectorAll('canvas')].map(c => c.getBoundingClientRect().right)"
    assert max(page.value(rights)) <= width  # type: ignore[type-var]


def test_keyboard_reaches_everything_and_updates_keep_its_place(
    page: Shown, settled: Rank, rank: Callable[..., Rank]
) -> None:
    """Tab goes to the skip link, the loaders, the tables; updates leave focus, folds and scroll alone."""
    other = rank(rank=1)
    other.register("valid")
    other.epoch("valid")
    page.open(height=500)
    page.says("Loaders", "Decisions")
    active = page.browser.driver.switch_to
    seen = []
    for _ in range(12):
        active.active_element.send_keys("\ue004")
        seen.append(str(page.value("document.activeElement.textContent.slice(0, 20)")))
        if seen[-1] == "Figures":
            break
    assert seen[0] == "Skip to the loaders"
    assert {"train", "valid", "Figures"} <= set(seen)
    active.active_element.send_keys(" ")
    page.browser.until(lambda: page.count("details[open]") == 1, "the table unfolded")
    page.browser.script("window.kept = [document.querySelector('canvas'), document.activeElement, scrollY]")
    other.epoch("valid", 1)
    settled.epoch(number=2, workers=6)
    page.says("epoch 2, 60 of 60 batches")
    page.read_again()
    assert page.value("scrollY > 0 && Math.abs(kept[2] - scrollY) < 2") is True
    assert page.value("kept[0] === document.querySelector('canvas')") is True
    assert page.value("kept[1] === document.activeElement && kept[1].parentElement.open") is True


def test_lost_sidecar_is_said_and_found_again(page: Shown, server: Sidecar, settled: Rank) -> None:
    """Killed: the page says so and keeps what it knew, in grey. Started again: live again, with no reload."""
    page.open()
    page.says("Too few workers")
    page.browser.script("window.loadedOnce = true")
    server.kill()
    page.says("The sidecar does not answer", "Too few workers")
    assert "grayscale" in str(page.value("getComputedStyle(document.querySelector('main')).filter"))
    assert page.violations() == []
    server.start()
    page.browser.until(lambda: page.browser.text("[role=status]") == "Live", "live again")
    assert page.value("window.loadedOnce") is True


def test_frozen_sidecar_is_noticed(page: Shown, server: Sidecar, settled: Rank) -> None:
    """One that accepts and does not answer is not there either."""
    page.open()
    server.freeze()
    page.says("The sidecar does not answer")
    server.thaw()
    page.browser.until(lambda: page.browser.text("[role=status]") == "Live", "live again")


def test_nothing_is_asked_of_anyone_else(page: Shown, settled: Rank) -> None:
    """All that the page loads comes from the sidecar."""
    page.open()
    page.says("Decisions")
    page.read_again(1)
    names = page.value("performance.getEntriesByType('resource').map(e => e.name)")
    assert isinstance(names, list)
    assert {str(name).removeprefix(page.url) for name in names} == {"page.js", "page.css", "api/v1/state"}


def test_hidden_page_asks_nothing(page: Shown, settled: Rank) -> None:
    """In a window put away the state is not read; brought back it is read again."""
    page.open()
    page.read_again(1)
    driver = page.browser.driver
    driver.minimize_window()
    page.browser.until(lambda: page.value("document.hidden") is True, "put away")
    before = page.answers()
    time.sleep(2.5)
    # One question may have been on its way.
    assert page.answers() <= before + 1
    driver.set_window_rect(0, 0, 1280, 900)
    page.read_again(1)
