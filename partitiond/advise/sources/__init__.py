"""Where what is known of a running deployment comes from; each only asks."""
