"""What is stored while an epoch runs: waits, loads, the steps of the device."""
