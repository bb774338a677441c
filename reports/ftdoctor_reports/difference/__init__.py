"""Two runs compared: what differs, in which form it is told."""
