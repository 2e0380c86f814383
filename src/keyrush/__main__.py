"""`python -m keyrush`: the same as the command `keyrush`."""

from keyrush.cli import main

main()
