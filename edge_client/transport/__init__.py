"""The way to the cloud: links, streams, and finding them again."""
