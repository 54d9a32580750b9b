"""Parts of the puppet corpus: what is said, how it sounds, how a face looks and moves.

`data_prep.puppet` is the command; `clip.make_clip` puts the parts together.
"""
