"""What runs in the relay, the small process beside a rank that owns its gRPC channel."""
