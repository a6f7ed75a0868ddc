"""Say why: the bottleneck, the evidence for it, what to do, in sentences."""
