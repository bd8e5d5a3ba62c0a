"""Not written yet."""

TELLS = ()
CACHE = None
load = None
folder = None
