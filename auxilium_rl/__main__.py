"""``python -m auxilium_rl`` is ``auxilium``."""

from auxilium_rl.cli.main import main

if __name__ == "__main__":
    main()
