"""Speed and memory, each figure against its peer in the same run. ``make bench`` fails when a bar is missed."""
