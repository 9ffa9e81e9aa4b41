"""What people made of pre-annotations: kept, moved, relabelled, deleted, added."""
