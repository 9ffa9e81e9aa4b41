"""Detectors compared with the libraries they come from: prelabel must find what the library's own code finds.

Each library has an environment of its own, `.venv-networks-NAME`, which `make test-networks` sets up. A script named
`make_NAME.py` runs there: it builds a small network with random weights, exports it as the library's users do, and
writes what the library itself predicts for real photos. A test then labels the same photos with `prelabel label` and
compares; see `comparison.py`.
"""
