"""`python -m jaxdistill` is the command `jaxdistill`."""

from jaxdistill.cli import main

main()
