"""`python -m clickledger`: the same as the command."""

from clickledger.cli import main

main()
