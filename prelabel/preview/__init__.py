"""`prelabel preview`: a gallery of a finished run that opens from disk, without a server and without a network."""
