"""How snapshots are taken and gone back to: which kind, by what steps, and what a kill leaves."""
