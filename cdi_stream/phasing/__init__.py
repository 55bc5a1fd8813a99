"""Phase retrieval by iterative projections, on batches of starts, in two or three axes.

`auto` finds a crystal without settings and explains its six steps on one page; `tuning` holds the numbers that steer
it.  `recipe`, `steps`, `engine` and `projections` run a schedule of projections; `gradient` and `coherence` refine a
crystal by descent and together with the partial coherence; `coarse_to_fine` phases large volumes; `measures`,
`quality`, `shells`, `bootstrap` and `judge` say how good a crystal is.
"""
