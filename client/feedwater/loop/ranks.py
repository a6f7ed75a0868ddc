"""The rank of this training process, also where no launcher sets ``RANK``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace

from feedwater.settings import Settings, read_count


def with_ranks(settings: Settings, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings with the ranks of ``torch.distributed``, or else of the launcher.

    Lightning's own launcher sets LOCAL_RANK, NODE_RANK and WORLD_SIZE; ``mp.spawn`` sets nothing. The
    environment is read again, because a script may have changed it since Feedwater was loaded.

    Args:
        settings: The settings as they were read first.
        environ: The environment; None: this process's.
    """
    source = os.environ if environ is None else environ
    distributed = sys.modules.get("torch.distributed")
    world = read_count(source, "WORLD_SIZE", settings.world_size)
    local = read_count(source, "LOCAL_RANK", settings.local_rank)
    local_world = read_count(source, "LOCAL_WORLD_SIZE", settings.local_world_size)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    elif "RANK" in source:
        rank = read_count(source, "RANK", settings.rank)
    else:
        rank = read_count(source, "NODE_RANK", 0) * local_world + local
    return replace(
        settings, rank=rank, local_rank=local, world_size=max(1, world), local_world_size=max(1, local_world)
    )


def pid_namespace() -> str:
    """Return the namespace of this process' pid, ``pid:[4026531836]``; empty where it cannot be read."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
