"""gRPC servicers and the server that hosts them. No training, no SQL."""
