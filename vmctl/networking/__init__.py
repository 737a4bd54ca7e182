"""What is done with networks, and with those who are on them, and is made of several modules."""
