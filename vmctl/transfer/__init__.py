"""Whole machines, out to files and in again."""
