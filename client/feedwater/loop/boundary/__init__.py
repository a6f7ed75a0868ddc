"""What is done where an epoch begins and ends: register, report, ask, decide, log."""
