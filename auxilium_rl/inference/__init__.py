"""A trained policy's graph at work, on the server or in anybody's program. Needs numpy and onnxruntime."""
