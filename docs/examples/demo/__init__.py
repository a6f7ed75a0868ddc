"""Compare a real training with and without Feedwater, on real files: ``make demo``."""
