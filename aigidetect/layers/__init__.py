"""Building blocks of the networks; each file is one idea of one paper."""
