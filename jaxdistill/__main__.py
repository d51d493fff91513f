"""`python -m jaxdistill` is the command `jaxdistill`."""

from jaxdistill.cli.app import main

main()
