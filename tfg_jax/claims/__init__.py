"""A paper's claims tried on talking puppets: `python -m tfg_jax.claims --paper=talklip`.

jobs           commands that need each other's results, run a few at a time, and never twice
trainings      the jobs that studies are made of: puppets, and trainings on them
talklip, sf2f  one paper each: its jobs, its table, its claims
comparison     numbers of two systems on the same clips or people: what is more than chance?
strips         pictures of what they draw
"""
