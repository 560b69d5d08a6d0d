"""The letters of the shop."""
