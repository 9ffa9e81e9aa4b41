"""`python -m prelabel`."""

from prelabel.cli import main

main(prog_name="prelabel")
