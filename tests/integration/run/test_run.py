"""``feedwater run``: the training is what it was without, and its loaders are watched."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import PATIENT, clean_environment

TRAINING = """
import os, time, torch
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 160
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((4,), index)

if __name__ == "__main__":
    loader = DataLoader(Slow(), batch_size=4, num_workers=1)
    for epoch in range(2):
        print(epoch, int(sum(batch.sum() for batch in loader)), loader.num_workers, flush=True)
    print(os.environ["FEEDWATER_ADDRESS"])
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Writes a script and returns its path."""

    def write(text: str, name: str = "train.py") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def start(*arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "feedwater", *arguments],
        env=clean_environment() | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, text: str = "", **environ: str) -> tuple[int, str, str]:
    process = start("run", *arguments, **environ)
    out, errors = process.communicate(text, timeout=100)
    return process.returncode, out, errors


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment whose sidecar is not there, so that none is started."""
    return {"FEEDWATER_ADDRESS": f"unix:{tmp_path}/none.sock"}


def test_streams_arguments_and_exit_code_pass_through(script, nowhere):
    """What goes in and comes out is the script's own; its exit code 3 too."""
    path = script(
        """
        import sys
        print(sys.argv[1:], __name__, input())
        print("on stderr", file=sys.stderr)
        sys.exit(3)
        """
    )
    code, out, errors = run(path, "--mode", "x", "y z", text="hello\n", **nowhere)
    assert (code, out, errors) == (3, "['--mode', 'x', 'y z'] __main__ hello\n", "on stderr\n")


def test_training_killed_by_a_signal_is_seen_as_killed_by_it(script, nowhere):
    """The shell, Slurm or the kubelet see signal 9, not an exit code."""
    code, _, errors = run(script("import os; os.kill(os.getpid(), 9)"), **nowhere)
    assert (code, errors) == (-signal.SIGKILL, "")


def test_sigterm_reaches_the_training_which_ends_as_it_likes(script, nowhere):
    """A script that saves a checkpoint on SIGTERM and exits with 5 does so."""
    path = script(
        """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(5)))
        print("ready", flush=True)
        signal.pause()
        """
    )
    process = start("run", path, **nowhere)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (5, "saved\n", "")


def test_signal_that_comes_after_the_training_does_not_take_the_last_words(monkeypatch):
    """A second Ctrl-C, or a SIGTERM to both: the table is still said."""
    from feedwater import run as running

    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))

    def wait(process, _):
        code = process.wait()
        # To this thread: others that a test before left, as gRPC's, do not block it; `feedwater run` has one.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return code

    monkeypatch.setattr(running, "_wait", wait)
    try:
        assert running._run(["true"], dict(os.environ)) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == []


def test_module_and_any_program_can_be_run(nowhere, tmp_path):
    """``-m json.tool``, and a shell whose Python children are watched as well."""
    assert run("-m", "json.tool", text="{}", **nowhere)[:2] == (0, "{}\n")
    command = (
        f"{sys.executable} -c 'import feedwater.loop.attach.autowatch, sys; print(len(sys.meta_path) > 3)'"
    )
    assert run("--", "sh", "-c", command, **nowhere)[:2] == (0, "True\n")


def test_program_that_is_not_there_is_named(nowhere):
    """Exit code 127 as from a shell, and one line."""
    code, out, errors = run("no-such-program", **nowhere)
    assert (code, out) == (127, "")
    assert errors == "feedwater run: no-such-program: No such file or directory\n"


def test_nothing_to_run_is_misuse():
    """Exit code 2, and what was expected."""
    code, _, errors = run()
    assert code == 2
    assert "expected a script, a module or a program" in errors


def test_users_own_sitecustomize_runs_too(script, nowhere, tmp_path):
    """The one on the user's PYTHONPATH is not hidden."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("import builtins; builtins.MINE = 'mine'")
    path = script("import sitecustomize; print(MINE, sitecustomize.__file__)")
    code, out, _ = run(path, PYTHONPATH=str(tmp_path / "site"), **nowhere)
    assert (code, out) == (0, f"mine {tmp_path}/site/sitecustomize.py\n")


def test_loaders_are_watched_without_an_edit_and_advice_is_given(script, tmp_path):
    """Two epochs under a sidecar of its own: the same samples, the count unchanged, a summary at the end."""
    code, out, errors = run(script(TRAINING), TMPDIR=str(tmp_path))
    lines = out.splitlines()
    total = 4 * sum(range(160))
    assert (code, lines[:2]) == (0, [f"0 {total} 1", f"1 {total} 1"])
    assert "what the loaders did" in errors
    assert "loader-0" in errors
    socket_path = Path(lines[2].removeprefix("unix:"))
    assert not socket_path.parent.exists()
    assert not _processes_naming(str(socket_path.parent))


def test_page_and_status_command_are_said_before_the_training_says_anything(script):
    """One line; the page answers while the training runs, the command shows its sidecar."""
    path = script(
        r"""
        import re, subprocess, sys, time, urllib.request
        print("the training's first line", file=sys.stderr, flush=True)
        line = input()
        page, command = re.search(r"live page (\S+), in a terminal: feedwater (.*)", line).groups()
        print("<html" in urllib.request.urlopen(page, timeout=30).read().decode())
        status = [sys.executable, "-m", "feedwater", *command.split()]
        while (done := subprocess.run(status, capture_output=True, text=True)).returncode:
            time.sleep(0.1)
        print(done.stdout.splitlines()[0].split(",")[0])
        """
    )
    process = start("run", path)
    assert process.stderr is not None
    said, first = process.stderr.readline(), process.stderr.readline()
    assert said.startswith("feedwater: live page http://127.0.0.1:")
    assert first == "the training's first line\n"
    out, errors = process.communicate(said, timeout=60)
    import feedwater

    assert out.splitlines() == ["True", f"feedwater {feedwater.__version__}"]
    assert "live page" not in errors


def test_mode_auto_changes_the_workers(script):
    """The same with ``--mode auto``: of five epochs the last has more workers, the samples are the same."""
    code, out, _ = run("--mode", "auto", script(TRAINING.replace("range(2)", "range(5)")), **PATIENT)
    epochs = [line.split() for line in out.splitlines()[:5]]
    assert code == 0
    assert [(epoch, total) for epoch, total, _ in epochs] == [
        (str(n), str(4 * sum(range(160)))) for n in range(5)
    ]
    assert (int(epochs[0][2]), int(epochs[-1][2]) > 1) == (1, True)


def test_without_the_service_it_says_so_once_and_trains(script):
    """Nothing is measured, and the training's exit code is its own."""
    hide = """
    import importlib.util, sys
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "feedwater_service" else find(name, *rest)
    from feedwater.cli import main
    sys.exit(main(sys.argv[1:]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide), "run", script("print('trained'); raise SystemExit(4)")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (4, "trained\n")
    assert done.stderr.count("pip install 'feedwater[service]'") == 1


def test_sidecar_command_without_the_service_says_how_to_get_it():
    """Exit code 1, one line."""
    hide = "import sys; sys.modules['feedwater_service'] = None; from feedwater.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "sys.exit(main(['sidecar']))"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "pip install 'feedwater[service]'" in done.stderr


def test_status_without_a_sidecar_fails_with_the_address(nowhere):
    """Exit code 1, and where nobody answered."""
    process = start("status", **nowhere)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert nowhere["FEEDWATER_ADDRESS"] in errors


def test_status_shows_loaders_as_table_and_as_json(script):
    """While a training runs, both name its loader and its workers."""
    path = script(
        TRAINING
        + """
    import subprocess, sys
    for more in ([], ["--json"]):
        subprocess.run([sys.executable, "-m", "feedwater", "status", *more], check=True)
"""
    )
    code, out, errors = run(path)
    assert (code, "Traceback" in errors) == (0, False)
    table, _, rest = out.partition("\n{")
    assert "loader-0" in table
    (loader,) = json.loads("{" + rest)["loaders"]
    assert (loader["loader"], loader["settings"]["num_workers"], loader["connected"]) == ("loader-0", 1, True)
    assert len(loader["epochs"]) >= 1


def test_local_sidecar_ends_with_a_run_that_is_killed(script):
    """SIGKILL to ``feedwater run`` leaves no sidecar behind; the training itself goes on."""
    path = script("import os; print(os.environ['FEEDWATER_ADDRESS'], flush=True); input()")
    process = start("run", path)
    assert process.stdout is not None
    directory = str(Path(process.stdout.readline().strip().removeprefix("unix:")).parent)
    process.kill()
    process.wait(60)
    # The training has the address in its environment too; it ends with its input.
    assert process.stdin is not None
    process.stdin.close()
    assert not _processes_naming(directory)
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    shutil.rmtree(directory, ignore_errors=True)


def test_version_is_the_packages():
    """One line."""
    import feedwater

    process = start("version")
    assert process.communicate(timeout=60)[0] == f"feedwater {feedwater.__version__}\n"


def _processes_naming(text: str) -> list[str]:
    """Return what still runs with ``text`` in its environment, after a moment to end."""
    until = time.monotonic() + 10
    while (found := _naming(text)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _naming(text: str) -> list[str]:
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            if text.encode() in Path(path).read_bytes():
                found.append(path)
        except OSError:
            continue
    return found
