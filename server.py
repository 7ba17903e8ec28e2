"""``python server.py`` is ``auxilium serve``."""

if __name__ == "__main__":
    import sys

    from auxilium_rl.app import serve

    sys.exit(serve())
