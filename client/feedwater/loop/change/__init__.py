"""Changes a running loader: checks the change before, makes it, and records it until an epoch has ended."""
