"""Runs where an epoch begins and ends: registers, reports, asks, decides, logs."""
