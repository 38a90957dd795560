"""nightflow: reduction of astronomical CCD and CMOS imaging, as plain functions on arrays and tables."""

__version__ = "0.1.0"
