"""Injection: how Python loads the client where a job is not edited, and how the client gets into a pod."""
