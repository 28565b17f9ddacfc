"""What runs the LLM: engines behind one seam, and the thread that batches their passes."""
