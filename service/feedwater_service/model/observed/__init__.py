"""What was measured, summed up: statistics of an epoch, its timeline, earlier epochs, ranks as one."""
