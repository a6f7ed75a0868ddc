"""What the sidecar knows, bounded: sessions, traces of epochs, counters, hung workers."""
