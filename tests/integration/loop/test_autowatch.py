"""Every loader of a process is watched without an edit of its script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import root_environment

SCRIPT = """
BEFORE
from feedwater.loop import process
from feedwater.loop.attach.autowatch import watch_every_loader
from feedwater.testing import FakeTransport
fake = process._transport = FakeTransport({0: 2})
watch_every_loader()
AFTER
import json
from tests.integration.loop.loop_datasets import Nested, Numbers
from torch.utils.data import DataLoader
train = DataLoader(Nested(), batch_size=4, num_workers=1, multiprocessing_context=METHOD)
val = DataLoader(Numbers(), batch_size=8)
if __name__ == "__main__":
    for _ in range(2):
        list(train)
        list(val)
    print(json.dumps({d.name: [d.mode.value, len(fake.timings(d.name)),
          [a.outcome.value for a in fake.outcomes(d.name)]] for d in fake.loaders.values()}))
"""


def run(tmp_path: Path, before: str, after: str, method: str, **environ: str) -> Any:
    """Return what the transport of a script of its own heard."""
    text = SCRIPT.replace("BEFORE", before).replace("AFTER", after)
    path = tmp_path / "train.py"
    path.write_text(text.replace("METHOD", repr(method)))
    done = subprocess.run(
        [sys.executable, str(path)],
        env=root_environment() | {"FEEDWATER_RUN_DIR": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("before", "after"), [("import torch", ""), ("", "import torch"), ("", "")])
def test_loaders_are_found_whenever_torch_is_imported(tmp_path: Path, before: str, after: str) -> None:
    """Two loaders, named in the order of their first iteration, advised; those inside workers are not."""
    assert run(tmp_path, before, after, "fork") == {
        "loader-0": ["advise", 24, ["advised"]],
        "loader-1": ["advise", 12, ["advised"]],
    }


@pytest.mark.slow
def test_spawned_workers_watch_nothing_of_their_own(tmp_path: Path) -> None:
    """A spawned worker runs the script's imports anew; its nested loaders stay unwatched."""
    assert set(run(tmp_path, "", "", "spawn")) == {"loader-0", "loader-1"}


def test_the_environment_may_say_auto(tmp_path: Path) -> None:
    """FEEDWATER_MODE=auto applies, and makes no trial load that would be watched itself."""
    heard = run(tmp_path, "", "", "fork", FEEDWATER_MODE="auto")
    assert heard == {"loader-0": ["auto", 24, ["applied"]], "loader-1": ["auto", 12, ["applied"]]}


def test_torchdata_imported_later_is_patched(tmp_path: Path) -> None:
    """StatefulDataLoader, imported after watching began, is watched through its own __iter__."""
    code = (
        "from feedwater.loop import process\n"
        "from feedwater.loop.attach.autowatch import watch_every_loader\n"
        "from feedwater.testing import FakeTransport\n"
        "fake = process._transport = FakeTransport()\n"
        "watch_every_loader()\n"
        "from torchdata.stateful_dataloader import StatefulDataLoader\n"
        "from tests.integration.loop.loop_datasets import Numbers\n"
        "list(StatefulDataLoader(Numbers(), batch_size=4))\n"
        "print([len(fake.timings(d.name)) for d in fake.loaders.values()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=root_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "[12]\n", done.stderr


def test_a_process_without_torch_is_left_alone(tmp_path: Path) -> None:
    """Nothing is imported and nothing printed where PyTorch is never loaded."""
    code = (
        "import sys\n"
        "from feedwater.loop.attach.autowatch import watch_every_loader\n"
        "watch_every_loader()\n"
        "import json\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
