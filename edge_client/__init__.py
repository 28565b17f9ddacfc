"""The device side: drafts with the SLM, gates, asks the cloud, reconciles."""
