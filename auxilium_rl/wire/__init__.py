"""What both ends of a connection share; it knows nothing of runs, policies or simulators."""
