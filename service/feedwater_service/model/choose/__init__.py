"""Choose settings within the limits of the pod, and verify what was chosen before."""
