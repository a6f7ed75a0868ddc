"""A discrete-event simulation of PyTorch's ``DataLoader`` on CPUs with a limit."""
