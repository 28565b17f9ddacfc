"""One device's answer on the cloud: what it may open, what its drafts are judged by."""
