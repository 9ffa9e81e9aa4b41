"""Analyze models by their files, without TensorFlow: convention, input range, activation, and unsafe operations."""
