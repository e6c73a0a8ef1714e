"""`python -m windvane`."""

from windvane.cli.main import main

main()
