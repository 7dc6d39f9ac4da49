"""`python -m volenti` is `volenti`."""

from volenti.cli.main import main

main()
