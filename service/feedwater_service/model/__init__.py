"""The model: what a pod's loaders would do under other settings, and what to choose. Pure.

The way of an epoch through it: `values.Epoch` (measured) → ``estimate`` (fitted quantities) → ``simulate``
(the curve) → ``choose`` (within budget) → ``explain`` (verdict, sentence) → ``verify`` (did the last change help).
"""
