"""The client that ``feedwater install-client`` installs beside an image that has none."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedwater.inject.install import install
from tests.support.processes import PATIENT, Sidecar, clean_environment, sidecar

TRAINING = """
import os, sys, time, torch
from pathlib import Path
from torch.utils.data import DataLoader, Dataset

# What an image without them would say; the relay has its own.
sys.modules["grpc"] = sys.modules["google"] = None

def relays():
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    return [pid for pid, line in lines.items() if "/relay/ld.so" in line]

def say(*words):
    # At once: ranks share one pipe.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Slow(Dataset):
    def __len__(self):
        return 160
    def __getitem__(self, index):
        time.sleep(0.004)
        return torch.full((4,), index)

def main():
    loader = DataLoader(Slow(), batch_size=4, num_workers=1)
    for epoch in range(3):
        total = int(sum(batch.sum() for batch in loader))
        say("epoch", os.environ.get("RANK", "0"), total, loader.num_workers)
    for pid in relays():
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        say("relay", *{line.split(maxsplit=5)[5] for line in maps if " /" in line})

if __name__ == "__main__":
    main()
"""
TOTAL = str(4 * sum(range(160)))
ITERABLE = """
import sys, time, feedwater
heard = []
def hear(summary, answer):
    heard.append(answer.connected)

loader = feedwater.watch([0.0] * 60, name="any", on_epoch=hear)
for epoch in range(3):
    for batch in loader:
        time.sleep(0.002)
print(feedwater.__file__, heard)
"""
PYTHONS = sorted({sys.executable, *glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[0-9].*/bin/python3"))})
OLDER = ["sh", *glob.glob(os.path.expanduser("~/.pyenv/versions/[23].[789]*/bin/python"))]
"""Pythons too old for Feedwater that are here; a shell stands for no Python at all."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client")
    install(directory)
    return directory


@pytest.fixture
def sidecar_process() -> Iterator[Sidecar]:
    with sidecar() as one:
        yield one


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(TRAINING)
    return str(path)


def run(client: Path, *command: str, **environ: str) -> tuple[str, str]:
    """Run a command with what injection sets; return what it printed."""
    injected = {"PYTHONPATH": str(client / "site"), "FEEDWATER_MODE": "auto"}
    done = subprocess.run(
        command,
        env=clean_environment() | injected | PATIENT | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_training_without_feedwater_is_tuned(client: Path, sidecar_process: Sidecar, script: str) -> None:
    """A loader that sleeps gets more workers, the samples stay; the relay maps no file of the image."""
    out, errors = run(client, sys.executable, script, FEEDWATER_ADDRESS=sidecar_process.address)
    epochs = [line.split() for line in out.splitlines() if line.startswith("epoch")]
    assert [epoch[2] for epoch in epochs] == [TOTAL] * 3
    assert (int(epochs[0][3]), int(epochs[-1][3]) > 1) == (1, True), errors
    (relay,) = [line.split()[1:] for line in out.splitlines() if line.startswith("relay")]
    files = {path for path in relay if path.startswith("/") and not path.startswith("/memfd:")}
    assert len(files) > 10
    assert {path for path in files if not path.startswith(f"{client}/relay/")} == set()


@pytest.mark.slow
def test_ranks_of_torchrun_inherit_it(client: Path, sidecar_process: Sidecar, script: str) -> None:
    """Both ranks are watched, each with its relay; the launcher, which has no loader, has none."""
    out, errors = run(
        client,
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script),
        FEEDWATER_ADDRESS=sidecar_process.address,
    )
    words = [line.split() for line in out.splitlines()]
    assert {word[1] for word in words if word[0] == "epoch"} == {"0", "1"}
    assert len([word for word in words if word[0] == "relay"]) == 2, errors


@pytest.mark.slow
def test_processes_of_accelerate_inherit_it(client: Path, sidecar_process: Sidecar, script: str) -> None:
    """``accelerate launch`` starts the script in a process of its own, which is watched."""
    out, errors = run(
        client,
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", script),
        FEEDWATER_ADDRESS=sidecar_process.address,
    )
    assert len([line for line in out.splitlines() if line.startswith("relay")]) == 1, errors


@pytest.mark.parametrize("python", PYTHONS)
def test_any_python_starts_the_same_relay(client: Path, sidecar_process: Sidecar, python: str) -> None:
    """The package runs on the image's Python, the relay on its own: connected at each boundary."""
    out, errors = run(client, python, "-B", "-c", ITERABLE, FEEDWATER_ADDRESS=sidecar_process.address)
    assert (out, errors) == (f"{client}/site/feedwater/__init__.py [True, True]\n", "")


def test_relay_needs_nothing_of_the_image(client: Path, sidecar_process: Sidecar, tmp_path: Path) -> None:
    """In a root with the client, the socket, /dev and /proc, but no C library and no shell, it connects."""
    root = tmp_path / "root"
    shutil.copytree(client, root / str(client).lstrip("/"))
    socket = root / str(sidecar_process.socket).lstrip("/")
    socket.parent.mkdir(parents=True)
    os.link(sidecar_process.socket, socket)
    code = textwrap.dedent(
        f"""
        from feedwater.inject import bundled_runtime
        confine = "cd {root} && for one in dev proc; do mkdir -p $one && mount --rbind /$one $one; done"
        confine += ' && exec chroot . "$@"'
        python = bundled_runtime.python_command
        unshare = ["unshare", "--mount", "sh", "-c", confine, "sh"]
        bundled_runtime.python_command = lambda directory: [*unshare, *python(directory)]
        """
    )
    out, errors = run(
        client, sys.executable, "-c", code + ITERABLE, FEEDWATER_ADDRESS=sidecar_process.address
    )
    assert (out.split(maxsplit=1)[1], errors) == ("[True, True]\n", "")


def test_libraries_that_the_image_preloads_stay_out(client: Path, sidecar_process: Sidecar) -> None:
    """An allocator in LD_PRELOAD is for the image's C library: the relay starts without it."""
    out, _ = run(
        client,
        *(sys.executable, "-c", ITERABLE),
        FEEDWATER_ADDRESS=sidecar_process.address,
        LD_PRELOAD="/nonexistent/libjemalloc.so",
    )
    assert out.endswith("[True, True]\n")


@pytest.mark.parametrize("option", ["-S", "-I", "-E"])
def test_isolated_python_is_left_alone(client: Path, option: str) -> None:
    """Who asks Python to ignore its surroundings gets that."""
    code = "import sys; print('sitecustomize' in sys.modules, 'feedwater' in sys.modules)"
    out, errors = run(client, sys.executable, option, "-c", code)
    assert (out, errors) == ("False False\n", "")


def test_python_that_loads_no_torch_loads_no_feedwater(client: Path, tmp_path: Path) -> None:
    """Nothing is imported and nothing is said."""
    code = "import sys, json; print([name for name in sys.modules if name.startswith('feedwater')])"
    out, errors = run(client, sys.executable, "-c", code, FEEDWATER_ADDRESS=f"unix:{tmp_path}/api.sock")
    assert (out, errors) == ("[]\n", "")


@pytest.mark.parametrize("python", OLDER)
def test_python_too_old_is_left_alone(client: Path, python: str) -> None:
    """Python 2.7 to 3.9 run as they would."""
    out, errors = run(
        client, python, "-c", "echo=1; print=str" if python == "sh" else "import torch_not_here" * 0
    )
    assert (out, errors) == ("", "")


def test_pod_without_the_volume_trains_as_it_would(client: Path, script: str) -> None:
    """No directory for a socket: not a word, no relay, the configured workers."""
    out, errors = run(client, sys.executable, script, FEEDWATER_ADDRESS="unix:/nonexistent/api.sock")
    assert [line.split()[3] for line in out.splitlines()] == ["1"] * 3
    assert errors == ""


@pytest.mark.parametrize("damage", ["noexec", "no relay"])
def test_image_with_grpc_runs_the_relay_itself_where_the_bundled_one_cannot(
    client: Path, sidecar_process: Sidecar, tmp_path: Path, damage: str
) -> None:
    """From a volume mounted noexec the bundled relay does not start: the image's Python takes its place."""
    copy = tmp_path / "copy"
    shutil.copytree(client, copy)
    if damage == "noexec":
        # What access(2) and execve(2) answer is the same as on such a mount.
        (copy / "relay/ld.so").chmod(0o644)
    else:
        shutil.rmtree(copy / "relay")
    out, _ = run(copy, sys.executable, "-c", ITERABLE, FEEDWATER_ADDRESS=sidecar_process.address)
    assert out.endswith("[True, True]\n")


def test_relay_for_another_machine_does_no_harm(
    client: Path, sidecar_process: Sidecar, script: str, tmp_path: Path
) -> None:
    """What the kernel refuses to execute costs one line; the training is as configured."""
    copy = tmp_path / "copy"
    shutil.copytree(client, copy)
    loader = copy / "relay/ld.so"
    content = bytearray(loader.read_bytes())
    content[18:20] = b"\xf3\x00"  # The ELF header's machine: RISC-V.
    loader.write_bytes(content)
    out, errors = run(copy, sys.executable, script, FEEDWATER_ADDRESS=sidecar_process.address)
    assert [line.split()[2:] for line in out.splitlines()] == [[TOTAL, "1"]] * 3
    (line,) = errors.splitlines()
    assert line.endswith("unavailable; training continues with num_workers=1")
