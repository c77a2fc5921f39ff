"""Commands of a host among several, and of their head."""
