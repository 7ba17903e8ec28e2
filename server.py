"""``python server.py`` is ``auxilium serve``."""

if __name__ == "__main__":
    import sys

    from auxilium_rl.wire.polling import poll_in_the_calling_thread

    poll_in_the_calling_thread()
    from auxilium_rl.app import serve

    sys.exit(serve())
