"""What evaluate and compare report: tables, plots, pages, files."""
