"""Which rank a training process is, by torch.distributed, RANK, or what other launchers set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from feedwater.loop import ranks
from feedwater.settings import read_settings


def with_ranks(environ: dict[str, str]) -> tuple[int, int, int, int]:
    """Return rank, local rank, world size and local world size under an environment."""
    found = ranks.with_ranks(read_settings({}), environ)
    return found.rank, found.local_rank, found.world_size, found.local_world_size


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 0, 1, 1)),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (5, 1, 8, 4)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, (1, 1, 2, 1)),
        (
            {"LOCAL_RANK": "1", "NODE_RANK": "2", "WORLD_SIZE": "12", "LOCAL_WORLD_SIZE": "4"},
            (9, 1, 12, 4),
        ),
        ({"RANK": "none", "WORLD_SIZE": "0"}, (0, 0, 1, 1)),
    ],
    ids=["alone", "torchrun", "Lightning", "two nodes", "nonsense"],
)
def test_rank_is_what_the_launcher_says(environ: dict[str, str], expected: tuple[int, int, int, int]) -> None:
    """RANK; else NODE_RANK times the ranks of a node, and LOCAL_RANK."""
    assert with_ranks(environ) == expected


def test_torch_distributed_knows_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mp.spawn no variable says anything; once the process group is there, it does."""
    group = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 3, get_world_size=lambda: 4
    )
    monkeypatch.setitem(__import__("sys").modules, "torch.distributed", group)
    assert with_ranks({"RANK": "0"}) == (3, 0, 4, 1)
    group.is_initialized = lambda: False
    assert with_ranks({"RANK": "1"}) == (1, 0, 1, 1)
