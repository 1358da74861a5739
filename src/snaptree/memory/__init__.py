"""Guest RAM: where it lies, which pages were written, the store of its pages.  Not for: when to do what (engine)."""
