"""The faces of the server: gRPC, HTTP, limits, access, metrics."""
