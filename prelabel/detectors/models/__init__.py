"""From the address of a model to its files on this machine."""
