"""`torchrun --nproc-per-node N -m alexnet_training OPTIONS`: run the command `alexnet train OPTIONS`."""

import sys
from importlib.metadata import entry_points

sys.argv = ["alexnet", "train", *sys.argv[1:]]
(command,) = entry_points(group="console_scripts", name="alexnet")
if __name__ == "__main__":
    command.load()()
