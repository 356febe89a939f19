"""Files that survive a kill and a full disk."""
