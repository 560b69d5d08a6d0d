"""A warehouse: its stock, shared by the threads that take orders, and a journal of it."""
