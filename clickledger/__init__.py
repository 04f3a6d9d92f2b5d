"""The command line and the local stack: the one package that composes the services."""
