"""Builds bootable guest images from Debian packages. `scripts/guest-image` is its command line."""
