"""``feedwater status``: what the sidecar knows of its pod, for a terminal, a log or a machine."""
