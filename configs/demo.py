r"""The demo: a narrow TalkLip on talking puppets, on a laptop, from nothing.

  python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg

Makes its corpus, trains generator and discriminator, writes samples, evaluates on held-out puppets.
"""

import ml_collections

from configs import talklip
