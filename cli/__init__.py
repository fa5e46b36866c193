"""Commands and client connectors; thin."""
