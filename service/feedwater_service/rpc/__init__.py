"""The calls of gRPC: the server, what each call does, and the only file that knows protobuf."""
