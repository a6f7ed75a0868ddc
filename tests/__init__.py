"""What tests Feedwater; everything below is imported from the repository's root, as ``tests.…``.

This file makes the folder a regular package: a ``tests`` that a dependency installs by mistake would be
imported in the place of a folder without one.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository."""
