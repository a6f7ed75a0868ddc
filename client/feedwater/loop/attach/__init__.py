"""Starts the watching of a loader: by `watch`, by patching PyTorch, by wrapping an iterable."""
