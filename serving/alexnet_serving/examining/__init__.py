"""`alexnet doctor`: what each command needs of this machine, and what mends it."""
