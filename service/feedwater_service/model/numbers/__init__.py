"""The model's numbers, each once, by kind, with where it comes from.

- ``costs``: measured costs of PyTorch, Python and Linux, which differ between machines;
  ``tests/benchmarks/costs.py`` measures them again and prints both figures.
- ``floors``: statistics. How much must be measured, and how far apart two figures must lie, to be believed.
- ``thresholds``: decisions. From where on something is chosen, refused or named.
- ``grids``: what is simulated, and for how long: settings tried, windows of batches, halvings.

What the user decides is in `types.Policy`. docs/sensitivity.md shows what happens to recommendations when a
number of ``floors`` or ``thresholds`` is halved or doubled. Modules read a number by its home's name
(``floors.MIN_SAMPLES``), never by a copy of it, so that one assignment changes it everywhere.
"""
