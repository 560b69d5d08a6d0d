"""The API of the shop: what it answers to the front end."""
