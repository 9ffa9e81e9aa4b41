"""Loading a network, running it, and turning its answers into Detections."""
