"""Labelled pictures: reading data sets, and batches of them."""
