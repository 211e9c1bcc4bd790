"""`python -m diffhep.cli`."""

import sys

from diffhep.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
