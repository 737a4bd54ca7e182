"""Inside the guest: how to reach it, who it is, whether it is ready, what it says."""
