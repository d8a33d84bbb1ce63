"""`python -m engine` is `detectflow`; torchrun starts it this way."""

import sys

from engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
