"""Audio as numpy arrays and sample counts. Sans-IO; knows nothing of the rest of the house."""
