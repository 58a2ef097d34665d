"""`hiertorch dashboard` of a clone."""

import sys

from hiertorch.commands.dashboard import main

if __name__ == "__main__":
    sys.exit(main())
