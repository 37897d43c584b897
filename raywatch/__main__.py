"""`python -m raywatch`."""

from raywatch.cli import main

main()
