"""What takes long: scores after whole trainings. ``make soak``."""
