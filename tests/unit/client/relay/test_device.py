"""Which device is the trainer's, and how busy the driver says it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from feedwater.relay.device import DeviceReader, choose_device
from feedwater.relay.nvml import Nvml
from feedwater.relay.observer import Observer

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-aaaa2222-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("uuids", "uuid", "environment", "expected"),
    [
        ([A, B], B, {"CUDA_VISIBLE_DEVICES": "0"}, B),  # What the trainer knows goes before all.
        ([A, B], "GPU-of-a-slice", {}, None),
        ([A], "", {}, A),
        ([A, B], "", {}, None),
        ([A], "", {"CUDA_VISIBLE_DEVICES": "0"}, A),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "1"}, None),  # CUDA's order need not be the bus'.
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, B),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "7", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, None),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "GPU-aaaa2"}, B),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}, None),
        ([A, B], "", {"CUDA_VISIBLE_DEVICES": "MIG-1"}, None),
        ([], "", {}, None),
    ],
)
def test_device_is_chosen_where_it_is_certain(
    uuids: Sequence[str], uuid: str, environment: dict[str, str], expected: str | None
) -> None:
    """By what the trainer says, by UUID, by index in the bus' order, or because there is only one."""
    assert choose_device(uuids, uuid, environment) == expected


class FakeLibrary:
    """Two devices, the second busy for 40 % of the time."""

    def __init__(self) -> None:
        self.opened = 0
        self.fails = False

    def open(self) -> FakeLibrary:
        self.opened += 1
        if self.fails:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")
        return self

    def uuids(self) -> Sequence[str]:
        return [A, B]

    def utilisation(self, uuid: str) -> float:
        return {A: 0.0, B: 0.4}[uuid]


def test_library_that_is_absent_is_asked_once() -> None:
    """No driver: nothing is said, and nothing tried again."""
    library = FakeLibrary()
    library.fails = True
    reader = DeviceReader({}, library.open)
    assert [reader.utilisation(B) for _ in range(3)] == [None] * 3
    assert library.opened == 1


def test_library_is_opened_when_first_asked_for() -> None:
    """A trainer without CUDA never loads it."""
    library = FakeLibrary()
    reader = DeviceReader({}, library.open)
    assert library.opened == 0
    assert [reader.utilisation(B) for _ in range(3)] == [0.4] * 3
    assert library.opened == 1


def test_observer_reads_the_device_each_second_and_reports_the_mean() -> None:
    """Readings of 0.2 and 0.6 in one report are 0.4; a report without a new one repeats it."""
    clock, told = [1000.0], iter([0.2, 0.6, 0.9])
    reader = DeviceReader({}, FakeLibrary)
    reader.utilisation = lambda uuid: next(told)  # type: ignore[method-assign]
    observer = Observer(os.getpid(), lambda: clock[0], reader)
    for clock[0] in (1000.0, 1000.5, 1001.0, 1001.4):
        observer.read_device(B)
    assert observer.container().device_utilisation == pytest.approx(0.4)
    clock[0] = 1001.8
    assert observer.container().device_utilisation == pytest.approx(0.4)


def test_observer_that_never_read_the_device_reports_none() -> None:
    """Without CUDA the figure is unknown, not zero."""
    assert Observer(os.getpid()).container().device_utilisation is None


SOURCE = r"""
#include <string.h>
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
static int devices[3] = {0, 1, 2};
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    if (index == 1)
        return 4; /* no permission */
    *device = &devices[index];
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length)
{
    if (length < 96)
        return 7;
    strcpy(uuid, *(int *)device ? "GPU-two" : "GPU-zero");
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, nvmlUtilization_t *rates)
{
    if (!*(int *)device)
        return 3; /* not supported */
    rates->gpu = 37;
    rates->memory = 90;
    return 0;
}
"""


def compiled(directory: Path, init: int) -> str:
    """Return a library that speaks NVML's binary interface."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = directory / "nvml.c", directory / "libnvidia-ml.so.1"
    source.write_text(SOURCE)
    command = [compiler, "-shared", "-fPIC", f"-DINIT={init}", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return str(library)


def test_nvml_is_read_by_its_binary_interface(tmp_path: Path) -> None:
    """Of three devices one is another container's; 37 % are 0.37; what is not supported is an error."""
    library = Nvml(compiled(tmp_path, 0))
    assert library.uuids() == ["GPU-zero", "GPU-two"]
    assert library.utilisation("GPU-two") == pytest.approx(0.37)
    with pytest.raises(OSError, match="nvmlDeviceGetUtilizationRates: NVML error 3"):
        library.utilisation("GPU-zero")


def test_nvml_without_a_driver_is_an_error_that_the_reader_absorbs(tmp_path: Path) -> None:
    """The library is in the image, the driver is not: NVML error 9."""
    name = compiled(tmp_path, 9)
    with pytest.raises(OSError, match="nvmlInit_v2: NVML error 9"):
        Nvml(name)
    assert DeviceReader({}, lambda: Nvml(name)).utilisation("GPU-two") is None


def test_library_that_is_no_nvml_is_an_error() -> None:
    """Another library of that name lacks the functions, or is none at all."""
    with pytest.raises(OSError, match="has no nvmlInit_v2"):
        Nvml("libc.so.6")
    with pytest.raises(OSError, match="cannot open shared object"):
        Nvml("libfeedwater-does-not-exist.so.1")
