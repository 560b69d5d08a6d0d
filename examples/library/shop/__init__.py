"""A small shop: a catalogue and a search over it."""
