"""`hiertorch compare` of a clone."""

import sys
from pathlib import Path

from hiertorch.commands.compare import main

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # where a model of your own is
    sys.exit(main())
