"""The relay: a small process beside each rank that owns the gRPC channel to the sidecar."""
