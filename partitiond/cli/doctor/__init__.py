"""`partitiond doctor`: one module for each field of checks. Checks are pure functions of facts."""
