"""``feedwater sweep``: measure a loader at a range of settings, with Feedwater's prediction beside each."""
