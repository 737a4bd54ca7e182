"""What networks and machines have to do with each other: who has which address."""
