"""Changing a machine by intent: what differs, when each difference can be made, and making it."""
