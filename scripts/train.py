"""`hiertorch train` of a clone, also for torchrun --nproc-per-node 2 scripts/train.py --config ..."""

import sys
from pathlib import Path

from hiertorch.commands.train import main

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # where a model of your own is
    sys.exit(main())
