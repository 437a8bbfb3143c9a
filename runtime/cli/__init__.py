"""The runtime's commands, one file each."""
