"""The client for a job that knows nothing of it: how Python comes to load it, and how a pod is brought it."""
