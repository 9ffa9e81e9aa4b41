"""Bringing pre-annotations into annotation tools that run as servers."""
