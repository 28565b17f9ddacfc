"""One answer, token by token: drafted, tested by the cloud, released."""
