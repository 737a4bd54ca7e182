"""The command line: it calls the public API and formats what comes back, nothing else."""
