"""Checks that a dataset works under a count of workers that the user has not run. In doubt, only advise.

A dataset that opens its file in ``__init__`` shares the file's offset between forked workers: 37 wrong
samples of 400 with 2 workers, and no error. A dataset of CUDA tensors dies in a forked worker.
"""

from __future__ import annotations

import os
import stat
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feedwater.loop.change.tuning import Tuning
from feedwater.loop.dataloader import dataset_kind
from feedwater.values import LoaderSettings

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    Loader = DataLoader[object]

TRIAL_TIMEOUT_SECONDS = 15.0
"""Longest wait for the batch of a trial load. A spawned worker takes 1 to 3 s to import torch. Paid once."""


class OpenFile(NamedTuple):
    """A regular file that is open for reading."""

    fd: int
    path: str


def refusal(
    tuning: Tuning,
    loader: Loader,
    current: LoaderSettings,
    wanted: LoaderSettings,
    *,
    was_exhausted: bool = True,
    last_index: object = None,
    proc: Path = Path("/proc"),
) -> str:
    """Return why the change is not known to keep the samples correct, a full sentence; empty if it is.

    Args:
        tuning: Of the loader; the results of trial loads are kept in it.
        loader: The loader to change.
        current: Its settings.
        wanted: The settings to change it to.
        was_exhausted: The sampler was read to its end in the last epoch.
        last_index: The index or indices that were loaded last, for a trial load; None is not known.
        proc: Where ``/proc`` is mounted.
    """
    why = "" if current.num_workers == wanted.num_workers else depends_on_count(loader)
    if why:
        return f"{why} {_REMEDY}"
    if not was_exhausted and _carries_over(getattr(loader, "batch_sampler", None) or loader.sampler):
        return (
            "Epochs end before the sampler does, and with another number of workers it would have been read "
            f"further: later epochs could be shuffled otherwise. {_REMEDY}"
        )
    if current.num_workers == wanted.num_workers:
        return ""
    if wanted.num_workers == 0:
        return _trial_error(tuning, loader, last_index, in_worker=False)
    if tuning.proven_workers < 2 <= wanted.num_workers and start_method(loader) == "fork":
        shared = next(open_files(proc), None)
        if shared is not None:
            return (
                f"{shared.path} is open for reading, and forked workers would share its offset: "
                f"samples could be wrong. Open it in the worker, at first use. {_REMEDY}"
            )
    return "" if tuning.proven_workers > 0 else _trial_error(tuning, loader, last_index, in_worker=True)


def depends_on_count(loader: object) -> str:
    """Return what depends on the loader's count of workers, a full sentence; empty if nothing does."""
    kind = dataset_kind(loader)
    if kind == "iterable":
        return "The order of an IterableDataset's data depends on the count."
    if hasattr(loader, "load_state_dict"):
        return "A StatefulDataLoader resumes only under the count it was saved with."
    return "" if kind == "map" else "This is no DataLoader."


def _carries_over(sampler: object) -> bool:
    """Return whether the next epoch's order may depend on how far the sampler was read in this one.

    PyTorch's samplers draw from a generator of their own, or once, at the first index. A ``RandomSampler``
    with the user's generator draws from it again at its end. Other classes may do anything.
    """
    module, name = type(sampler).__module__, type(sampler).__name__
    if isinstance(sampler, (list, tuple, range)):
        return False
    if (module, name) == ("torch.utils.data.distributed", "DistributedSampler"):
        return False
    if module != "torch.utils.data.sampler":
        return True
    if name == "BatchSampler":
        return _carries_over(getattr(sampler, "sampler", None))
    return name == "RandomSampler" and getattr(sampler, "generator", None) is not None


def _trial_error(tuning: Tuning, loader: Loader, last_index: object, *, in_worker: bool) -> str:
    """Return why the trial load failed. It is made once, because one that hangs costs its timeout."""
    if in_worker not in tuning.trial_errors:
        tuning.note_trial(in_worker, trial_refusal(loader, last_index, in_worker=in_worker))
    return tuning.trial_errors[in_worker]


_REMEDY = "Pass allow_workers=True to feedwater.watch to allow it."


def start_method(loader: object) -> str:
    """Return the start method of the loader's workers: fork, spawn or forkserver."""
    context = getattr(loader, "multiprocessing_context", None)
    if context is not None:
        return str(context.get_start_method())
    import multiprocessing

    # Without allow_none this would set the default, and the user's own set_start_method would raise later.
    method = multiprocessing.get_start_method(allow_none=True)
    return method or multiprocessing.get_all_start_methods()[0]


def open_files(proc: Path = Path("/proc")) -> Iterator[OpenFile]:
    """Yield the regular files that this process holds open for reading, other than by a mapping.

    Standard streams and shared memory are not among them. A mapped file (``numpy.memmap``, Arrow, LMDB) has
    an open descriptor, but reading it does not use the offset.
    """
    mapped = _mapped_inodes(proc)
    for entry in sorted((proc / "self" / "fd").iterdir(), key=lambda p: int(p.name)):
        fd = int(entry.name)
        if fd <= 2:
            continue
        try:
            status = entry.stat()
            path = os.readlink(entry)
            readable = _is_readable((proc / "self" / "fdinfo" / entry.name).read_text())
        except OSError:  # Closed since the listing, as the descriptor of the listing itself.
            continue
        if not stat.S_ISREG(status.st_mode) or path.startswith(("/memfd:", "/dev/shm/", "/proc/")):
            continue
        if readable and status.st_ino not in mapped:
            yield OpenFile(fd, path)


def _is_readable(fdinfo: str) -> bool:
    flags = next((int(line.split()[1], 8) for line in fdinfo.splitlines() if line.startswith("flags:")), 0)
    return flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR) and not flags & getattr(os, "O_PATH", 0)


def _mapped_inodes(proc: Path) -> set[int]:
    try:
        lines = (proc / "self" / "maps").read_text().splitlines()
    except OSError:
        return set()
    return {int(fields[4]) for fields in (line.split(None, 5) for line in lines) if len(fields) == 6}


def trial_refusal(loader: Loader, last_index: object = None, *, in_worker: bool) -> str:
    """Load one batch in a new worker, and return why that failed, a full sentence; empty if it did not.

    Args:
        loader: The loader whose dataset, collate function and start method are used.
        last_index: The index or indices that were loaded last; None is not known.
        in_worker: False: load as the main process would, without ``get_worker_info`` and ``worker_init_fn``.
    """
    indices = trial_indices(loader, last_index)
    if indices is None:
        return f"No indices are known to try a worker with. {_REMEDY}"
    error = _load_once(loader, indices, in_worker)
    where = "a trial worker" if in_worker else "a trial without workers"
    return f"Loading one batch in {where} failed: {error}. {_REMEDY}" if error else ""


def trial_indices(loader: Loader, last_index: object = None) -> object:
    """Return the indices to load: those loaded last, or else the first batch where they are numbers."""
    if last_index is not None:
        return last_index
    sampler = getattr(loader, "sampler", None)
    if type(sampler).__module__ not in ("torch.utils.data.sampler", "torch.utils.data.distributed"):
        return None
    try:
        size = min(getattr(loader, "batch_size", None) or 1, len(loader.dataset))  # type: ignore[arg-type]
    except TypeError:
        return None
    return list(range(size)) if getattr(loader, "batch_sampler", None) is not None else 0


def _load_once(loader: Loader, indices: object, in_worker: bool) -> str:
    from torch import Generator
    from torch.utils.data import DataLoader

    batched = getattr(loader, "batch_sampler", None) is not None
    try:
        trial: DataLoader[object] = DataLoader(
            loader.dataset,
            batch_size=1 if batched else None,
            batch_sampler=[indices] if batched else None,  # type: ignore[list-item]
            sampler=None if batched else [indices],
            num_workers=1,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn if in_worker else _clear_worker_info,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=TRIAL_TIMEOUT_SECONDS,
            # A loader draws its workers' seed from the main generator, which a trial must not advance.
            generator=Generator(),
        )
        _trials.add(trial)
        for _ in trial:
            pass
    except Exception as error:
        # The traceback refers to the worker, in a cycle whose collection would stop training for 5 s.
        traceback.clear_frames(error.__traceback__)
        return _summary(error)
    return ""


_trials: weakref.WeakSet[object] = weakref.WeakSet()


def is_trial(loader: object) -> bool:
    """Return whether Feedwater made ``loader`` for a trial load."""
    return bool(_trials) and loader in _trials


def _clear_worker_info(worker_id: int) -> None:
    """Have ``get_worker_info`` return None, as it does at ``num_workers=0``."""
    from torch.utils.data._utils import worker

    worker._worker_info = None


def _summary(error: Exception) -> str:
    # PyTorch raises a worker's error with the whole traceback as its text; the last line has the message.
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}"[:300].rstrip(".")
