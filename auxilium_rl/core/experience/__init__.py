"""Experience that agents push: taking it in, and learning from it."""
