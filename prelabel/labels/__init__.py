"""Label maps: from a class number to its name and its Freebase machine id."""
