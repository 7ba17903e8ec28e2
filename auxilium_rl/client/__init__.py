"""The Python SDK: start runs, watch them, act with their policies."""
