"""nightflow: reduction of astronomical CCD and CMOS imaging, as plain functions on arrays and tables."""

import sys

from nightflow.packages import LIGHTER

__version__ = "0.1.0"

# before any module of astropy is imported: a quarter of the time of a short step
sys.meta_path[:0] = LIGHTER
