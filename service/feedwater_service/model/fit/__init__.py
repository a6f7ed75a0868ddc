"""Fit the quantities that the simulator needs to the epochs that were measured."""
