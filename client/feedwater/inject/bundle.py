"""Builds the relay's runtime: interpreter, standard library, gRPC, C library, for any container.

The runtime needs neither the Python nor the C library of the image that it runs in: its own dynamic loader
starts it and finds every shared library beside it. All files are copied from the Python that runs this
module, and only those that the relay uses, because the start of a pod waits for the copy.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

DISTRIBUTIONS = ("grpcio", "protobuf", "psutil")
"""What the relay imports besides the standard library; their requirements are copied as well."""
IMPORTED_LATER = ("ctypes", "encodings.idna", "os", "traceback")
"""Standard modules that the relay imports while it runs: for NVIDIA's driver, for host names and for errors;
``os``, by which the interpreter finds its library."""
LIST_MODULES = """
# OpenSSL is 7 MB; asyncio works without it, and gRPC has its own.
import importlib, json, sys
sys.modules["ssl"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([getattr(m, "__file__", None) for name, m in sys.modules.items() if "." not in name]))
"""


def build(directory: Path) -> None:
    """Fill ``directory`` with ``ld.so``, ``bin/python3``, and ``lib`` with everything that these need.

    Raises:
        OSError: ``ldd`` is not installed.
    """
    library = directory / "lib" / "python{}.{}".format(*sys.version_info)
    _copy(Path(os.path.realpath(sys._base_executable)), directory / "bin/python3")  # type: ignore[attr-defined]
    # By this directory the interpreter finds its library, even where all extensions are built in.
    (library / "lib-dynload").mkdir(parents=True)
    for module in _standard_modules():
        _copy_module(module, library)
    for distribution in _with_required(DISTRIBUTIONS):
        _copy_distribution(distribution, library)
    _copy_shared_libraries([directory / "bin/python3", *library.rglob("*.so")], directory)


def compile_sources(directory: Path) -> None:
    """Write this Python's byte code beside each source: the trainer mounts the volume read-only."""
    for source in directory.rglob("*.py"):
        _compile(source)


def _standard_modules() -> list[Path]:
    """Return the files of the standard modules that a process has loaded once it has imported the relay."""
    modules = ("feedwater.relay.control", "feedwater.relay.relay", *IMPORTED_LATER)
    listed = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *modules], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    files = [Path(file) for file in json.loads(listed) if file]
    standard = [Path(sysconfig.get_path("stdlib")), _extensions()]
    return [file for file in files if file.parent in standard or file.parents[1] in standard]


def _extensions() -> Path:
    return Path(sysconfig.get_config_var("DESTSHARED"))


def _copy_module(file: Path, library: Path) -> None:
    """Copy an extension, a module, or a whole package; sources as byte code only, which halves the bytes."""
    if file.suffix == ".so":
        _copy(file, library / "lib-dynload" / file.name)
    elif file.name == "__init__.py":
        for source in file.parent.rglob("*.py"):
            _compile(source, library / source.relative_to(file.parents[1]).with_suffix(".pyc"))
    else:
        _compile(file, library / f"{file.stem}.pyc")


def _compile(source: Path, target: Path | None = None) -> None:
    py_compile.compile(
        str(source),
        cfile=None if target is None else str(target),
        dfile=source.name,
        doraise=True,
        # Copying changes modification times: byte code that is checked against them would be compiled again.
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _with_required(names: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the named distributions and, once each, the distributions that they require."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            distribution = importlib.metadata.distribution(name)
            yield distribution
            # After a semicolon stands a condition: another version of Python, or an extra.
            required = [text for text in distribution.requires or () if ";" not in text]
            waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required]


def _copy_distribution(distribution: importlib.metadata.Distribution, library: Path) -> None:
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if file.suffix == ".py" and source.exists():
            _compile(source, library / file.with_suffix(".pyc"))
        elif file.suffix == ".so":
            _copy(source, library / file)


def _copy_shared_libraries(binaries: list[Path], directory: Path) -> None:
    """Copy the libraries that ``ldd`` lists for the binaries, and the dynamic loader as ``ld.so``."""
    listed = subprocess.run(
        ["ldd", *map(str, binaries)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for name, path in dict(re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE)).items():
        _copy(Path(path), directory / "lib" / name)
    (loader,) = set(re.findall(r"^\s*(/\S+) \(0x", listed, re.MULTILINE))
    _copy(Path(loader), directory / "ld.so")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
