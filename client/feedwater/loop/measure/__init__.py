"""Measures a running epoch: waits of the loop, loads of the main process, steps of the device."""
