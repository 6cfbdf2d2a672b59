"""`alexnet doctor`: what each command needs from this machine, and the command that fixes what is missing."""
