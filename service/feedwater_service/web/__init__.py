"""The HTTP port: its server and the files of the live page."""
