"""Loaded by every Python on whose ``PYTHONPATH`` it lies: has loaders watched, once PyTorch is loaded.

That is how ``feedwater run`` and ``feedwater install-client`` need no edit of a script. Nothing here may
fail, print or take time: it runs in every Python process of the job, of any version, also in those that never
load PyTorch. So nothing is imported before PyTorch is.
"""

import os
import sys


class _BeforeTorch:
    """Starts watching when ``torch`` is looked for, and finds nothing itself.

    It stays in the list: taken out while Python goes through it, it would hide the next finder.
    """

    has_come = False

    # Comments for types, as Python 2 reads them too.
    def find_spec(self, fullname, path=None, target=None):
        # type: (str, object, object) -> None
        if fullname == "torch" and not self.has_come:
            self.has_come = True
            _watch()


def _watch():
    # type: () -> None
    try:
        from feedwater.loop.attach.autowatch import watch_every_loader

        watch_every_loader()
    except Exception:
        # Another environment's Python, in which Feedwater is not installed: none of its business.
        pass


def _has_sidecar():
    # type: () -> bool
    """Say whether there can be one: its socket's directory is a volume that the pod shares."""
    kind, _, path = os.environ.get("FEEDWATER_ADDRESS", "unix:/run/feedwater/api.sock").partition(":")
    return kind != "unix" or os.path.isdir(os.path.dirname(path))


def _chain():
    # type: () -> None
    """Run the ``sitecustomize`` that this one hides, if there is one."""
    # Loaded already; by its public name, importlib.machinery, it costs a bare Python another millisecond.
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
