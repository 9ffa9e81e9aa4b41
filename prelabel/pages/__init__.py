"""Shared by all HTML pages: the style sheet (`base.css`), escaped markup, and the embedding of scripts and data."""
