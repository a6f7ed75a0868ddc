"""Watches every loader once PyTorch is imported; a Python with this on its ``PYTHONPATH`` runs it at start.

``feedwater run`` and ``feedwater install-client`` set that path, so no script is edited. Nothing here may
fail, print or take time: it runs in every Python process of the job, of any version, also in those that never
import PyTorch. Therefore nothing is imported before PyTorch is.
"""

import os
import sys


class _BeforeTorch:
    """A finder that finds nothing: it starts watching when ``torch`` is imported.

    It stays in ``sys.meta_path``: removed while Python iterates over the list, it would hide the next finder.
    """

    was_imported = False

    # Comments for types, as Python 2 reads them too.
    def find_spec(self, fullname, path=None, target=None):
        # type: (str, object, object) -> None
        if fullname == "torch" and not self.was_imported:
            self.was_imported = True
            _watch()


def _watch():
    # type: () -> None
    try:
        from feedwater.loop.attach.autowatch import watch_every_loader

        watch_every_loader()
    except Exception:
        # The Python of another environment, in which Feedwater is not installed.
        pass


def _has_sidecar():
    # type: () -> bool
    """Return whether a sidecar is possible: the directory of its socket is a volume that the pod shares."""
    kind, _, path = os.environ.get("FEEDWATER_ADDRESS", "unix:/run/feedwater/api.sock").partition(":")
    return kind != "unix" or os.path.isdir(os.path.dirname(path))


def _chain():
    # type: () -> None
    """Run the ``sitecustomize`` that this one hides, if there is one."""
    # Already loaded; importing it by its public name, importlib.machinery, takes a bare Python 1 ms.
    from _frozen_importlib_external import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != here])
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if sys.version_info >= (3, 10) and _has_sidecar():
    sys.meta_path.insert(0, _BeforeTorch())
_chain()
