"""The Feedwater sidecar."""
