"""``python -m anylocal_vit``."""

import sys

from anylocal_vit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
