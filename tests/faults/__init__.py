"""What goes wrong, on purpose: full disks, killed processes, cut links. Each helper cleans up after itself."""
