"""`modules.api`."""
