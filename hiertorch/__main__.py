"""`python -m hiertorch`, which is the command `hiertorch`."""

import sys

from hiertorch.commands.verbs import main

if __name__ == "__main__":
    sys.exit(main())
