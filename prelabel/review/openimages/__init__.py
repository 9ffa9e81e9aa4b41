"""Open Images' metrics: mean AP at IoU 0.5 against the dataset's own CSV files."""
