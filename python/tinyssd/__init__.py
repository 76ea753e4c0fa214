"""TinySSD: a small single-shot detector, from labelled pictures to drawn boxes.

Read in this order: :mod:`tinyssd.model`, :mod:`tinyssd.loss`, :mod:`tinyssd.data`, :mod:`tinyssd.train`. The geometry
underneath (anchors, matching, suppression) is :mod:`tinyssd_ops`.
"""
