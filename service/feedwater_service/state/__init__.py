"""What the sidecar knows, bounded: sessions, traces of epochs, counters, stalls."""
