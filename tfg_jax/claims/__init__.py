"""A paper's claims tried on talking puppets: `python -m tfg_jax.claims --paper=talklip`.

jobs           commands that need each other's results, run a few at a time, and never twice
comparison     numbers of two systems on the same clips: is the difference more than chance?
talklip        one paper: its jobs, its table, its orderings
"""
