"""What mypyc is told of a class, where the packet path is compiled (hatch_build.py); else it says nothing.

A call through a base class is one of C there, through a Protocol a call of Python.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**_):
        """Return what leaves a class as it is."""
        return lambda named: named
