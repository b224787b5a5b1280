"""``python -m anylocal``."""

import sys

from anylocal.cli.info import main

if __name__ == "__main__":
    sys.exit(main())
