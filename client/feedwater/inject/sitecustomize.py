"""Loaded by every Python that ``feedwater run`` starts: watches its loaders, then runs the one it hides.

Found first on ``PYTHONPATH``. Nothing here may fail or print: it runs in every Python process of the job,
also in those that never load PyTorch.
"""

import os
import sys


def _chain() -> None:
    """Run the ``sitecustomize`` that this one hides, if there is one."""
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _watch() -> None:
    try:
        from feedwater.loop.autowatch import watch_every_loader
    except ImportError:
        # Another environment's Python, in which Feedwater is not installed: none of its business.
        return
    watch_every_loader()


_watch()
_chain()
