"""The guest images that the tests and the quickstart boot. `scripts/guest-image` is its command."""
