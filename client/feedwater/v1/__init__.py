"""Generated wire code; see ``protos/``."""
