"""``python -m feedwater``."""

import sys

from feedwater.cli import main

if __name__ == "__main__":
    sys.exit(main())
