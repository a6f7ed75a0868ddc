"""How a loader comes under watch: by `watch`, by patching PyTorch, by wrapping an iterable."""
