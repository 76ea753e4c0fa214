"""Boxes on pictures, and charts."""
