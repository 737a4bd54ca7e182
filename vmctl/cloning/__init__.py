"""Clones of machines: the same disks, and an identity of their own."""
