"""``python -m anylocal_bert``."""

import sys

from anylocal_bert.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
