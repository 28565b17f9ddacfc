"""How drafts are tested: what is drawn, what is sent of it, what a verdict means."""
