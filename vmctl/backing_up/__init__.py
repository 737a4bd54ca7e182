"""Backups of machines: made, kept in folders, verified, and made into machines again."""
