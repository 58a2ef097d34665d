"""Figures as PNGs, drawn with Pillow: matplotlib takes longer to import than a whole dashboard may take to write."""
