"""Keep GPUs fed: measure a PyTorch ``DataLoader``, name its bottleneck, set its workers."""

__version__ = "0.1.0"
