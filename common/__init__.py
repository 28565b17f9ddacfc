"""What both sides must agree on bit for bit. Imports neither edge_client nor cloud_server."""
