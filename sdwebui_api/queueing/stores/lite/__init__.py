"""The parts of the sqlite store: tables, the writing thread, what is done to tables. `stores/sqlite.py` joins them."""
