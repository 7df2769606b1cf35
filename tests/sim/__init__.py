"""Models of the doors to the disk, and what the simulator is made of."""
