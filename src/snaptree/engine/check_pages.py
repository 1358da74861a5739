"""What a check says of the page store: pages of a snapshot that are missing or damaged, unused space.

Not for: snapshots of the full way, whose RAM is in the images.
"""

from __future__ import annotations

from ..places.places import VMPlace
from .check import Book


def book_with_pages(book: Book, place: VMPlace, *, fast: bool) -> Book:
    """Return the book with what is wrong with the pages of its snapshots."""
    return book
