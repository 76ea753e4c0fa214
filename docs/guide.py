"""The pages beside the reference.

.. include:: migrating.md
.. include:: training.md
.. include:: assignment.md
.. include:: compiling.md
.. include:: modes.md
"""
