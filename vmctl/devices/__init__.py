"""Devices of a machine: attached, detached and changed, while it runs and for its next start."""
