"""ci_flame: a CI regression gate on hot paths.

Importing the package costs nothing: each stage is imported by whoever needs it.
"""

__version__ = "0.1.0"
