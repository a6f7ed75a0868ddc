"""What runs in the training process: standard library only, no thread, no gRPC."""
