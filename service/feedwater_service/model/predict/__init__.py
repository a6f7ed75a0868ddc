"""Predict the throughput of each setting, with bounds."""
