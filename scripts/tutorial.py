"""`hiertorch tutorial` of a clone."""

import sys

from hiertorch.commands.tutorial import main

if __name__ == "__main__":
    sys.exit(main())
