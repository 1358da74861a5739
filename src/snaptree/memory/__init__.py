"""Guest RAM: where it lies, which pages were written, and the store of its pages.  Not for: when to do what (engine)."""
