"""`partitiond top` and `events`: what happens now and what happened."""
