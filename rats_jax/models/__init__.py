"""The networks, and the only folder that imports diffusers and transformers.

Layout changes (NCHW <-> NHWC), value ranges and dtype casts live here, so that the rest of the package knows
nothing of them. Both libraries announce at every class that their Flax side ends with diffusers 0.39 and
transformers 4.57; setup.py caps them there, and the announcement is silenced once, here.
"""

import os

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
