"""`label --dry-run`: what a run would find, how long it would take, and what it would cost."""
