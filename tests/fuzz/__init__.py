"""Fuzzers of what others may send or leave behind, guided by coverage."""

TARGETS = ("sidecar_wire", "client_wire", "stored_state", "http_port", "model")
"""Modules of this folder; the function ``check`` of each takes a test case."""
