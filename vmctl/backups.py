"""Folders of backups, which need no host: listed, verified, pruned."""
