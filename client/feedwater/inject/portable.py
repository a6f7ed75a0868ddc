"""The relay's Python, made to run in any container: interpreter, standard library, gRPC, loader, C library.

It depends on nothing of the image it runs in, neither its Python nor its C library: started by the loader
that came with it, it finds every shared library beside itself. All is copied from the Python that runs this,
and nothing that the relay does not use: a pod waits for the copy.
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

DISTRIBUTIONS = ("grpcio", "protobuf")
"""What the relay imports beside the standard library; what they require comes too."""
IMPORTED_LATER = ("ctypes", "encodings.idna", "os", "traceback")
"""Of the standard library: NVIDIA's driver, host names, what the interpreter knows its library by, errors."""
LIST_MODULES = """
# OpenSSL is 7 MB that asyncio can do without; gRPC brings its own.
import importlib, json, sys
sys.modules["ssl"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([getattr(m, "__file__", None) for name, m in sys.modules.items() if "." not in name]))
"""


def gather(directory: Path) -> None:
    """Fill ``directory`` with ``ld.so``, ``bin/python3`` and ``lib``, which holds all that these need.

    Raises:
        OSError: There is no ``ldd``.
    """
    library = directory / "lib" / "python{}.{}".format(*sys.version_info)
    _copy(Path(os.path.realpath(sys._base_executable)), directory / "bin/python3")  # type: ignore[attr-defined]
    # The interpreter knows its library by this directory, also where all extensions are built in.
    (library / "lib-dynload").mkdir(parents=True)
    for module in _standard_modules():
        _copy_module(module, library)
    for distribution in _with_required(DISTRIBUTIONS):
        _copy_distribution(distribution, library)
    _copy_shared_libraries([directory / "bin/python3", *library.rglob("*.so")], directory)


def compile_sources(directory: Path) -> None:
    """Put byte code of this Python beside each source: where the relay runs, nothing can be written."""
    for source in directory.rglob("*.py"):
        _compile(source)


def _standard_modules() -> list[Path]:
    """Return the files of the standard library's modules that the relay loads, as a relay tells."""
    asked = ("feedwater.relay.control", "feedwater.relay.relay", *IMPORTED_LATER)
    told = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *asked], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    files = [Path(file) for file in json.loads(told) if file]
    places = [Path(sysconfig.get_path("stdlib")), _extensions()]
    return [file for file in files if file.parent in places or file.parents[1] in places]


def _extensions() -> Path:
    return Path(sysconfig.get_config_var("DESTSHARED"))


def _copy_module(file: Path, library: Path) -> None:
    """Copy an extension, a module, or a package whole: as byte code only, half the bytes."""
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
        # Copying changes times; byte code that is checked against them would be compiled anew.
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _with_required(names: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the distributions of these names and, once each, those they require."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            found = importlib.metadata.distribution(name)
            yield found
            # What follows a semicolon is a condition: another Python, an extra that nobody asked for.
            required = [text for text in found.requires or () if ";" not in text]
            waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required]


def _copy_distribution(distribution: importlib.metadata.Distribution, library: Path) -> None:
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if file.suffix == ".py" and source.exists():
            _compile(source, library / file.with_suffix(".pyc"))
        elif file.suffix == ".so":
            _copy(source, library / file)


def _copy_shared_libraries(binaries: list[Path], directory: Path) -> None:
    """Copy what the binaries need, as ``ldd`` lists it; the loader itself as ``ld.so``."""
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
