"""What survives the death of the sidecar: checkpoint and journal."""
