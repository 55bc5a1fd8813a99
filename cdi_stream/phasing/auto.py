"""The automatic method: from a measurement to a crystal and the numbers that judge it, without settings.

Strongly strained crystals are rarely found from one random start.  `solve` therefore tries many random starts where a
start is cheap, on a coarse grid, and spends expensive cycles on the best of them only.  A first, quick attempt finds
most crystals; if its crystal is not good, thorough attempts follow while there is time.  The numbers that steer the
steps are the fields of `cdi_stream.phasing.tuning.SearchTuning`, the recipes stand in `cdi_stream.phasing.schedules`.

1. *Prepare.*  The origin is the Bragg peak or the middle of the counts (`middle.origin_for`).  The autocorrelation of
   the counts gives the size of the crystal (`autocorrelation.box_of`), which limits the supports.  A few balls of
   voxels, 5 % of the valid voxels, are chosen to be held out (`ranking.hold_out`).  The grids are chosen: the coarsest
   is the middle of the diffraction with 98.8 % of the counts along each axis, the finest is the whole measurement
   (`pyramid.grid_shapes`).

2. *Explore* (`explore.explore`).  On the coarsest grid, rounds of random starts run side by side.  A start has random
   phases and, as its support, a region of the autocorrelation.  Cycles of HIO, RAAR and ER follow one another.
   Shrink-wrap uses thresholds of the rms amplitude inside the support.  The amplitude is clipped to multiples of its
   mean, because a crystal of one material has an even amplitude.  Six variants of threshold, clip and largest support
   take turns, since no single variant finds every crystal.  The score of a candidate is its chi2, corrected for the
   size of its support by generalised cross-validation (`ranking.score_batch`): chi2 alone is lowest for the loosest
   support.  The step ends when the best candidates agree, or when its share of the time is spent.  The quick attempt
   begins with 16 starts of half the length, a thorough one with 64 starts.

   Counts that none of the best candidates explains are the peaks of other grains (`aliens.find_aliens`).  The step is
   then done again without their voxels.

   Partly coherent light blurs the intensities.  The best candidates show whether a kernel is needed
   (`coherence_search.find_coherence`); if so, it belongs to the model from here on, and is refined once more on the
   finest grid.  The quick attempt takes only a wide kernel, since the faults of its crystals look like a narrow one.

3. *Climb* (`grid_level.climb`).  If the candidates agree, they lack only details, and the finest grid follows at once.
   The random starts cut into strongly strained crystals; copies of the best candidates are therefore mended
   (`schedules.mend_recipe`).  If the candidates disagree, they are carried to finer and finer grids, by padding their
   diffraction with zeros, and are refined on each; a third of them is dropped from grid to grid.

4. *Choose.*  On the finest grid the finalists are set to zero at the held-out voxels in reciprocal space and are
   refined without these voxels (`schedules.final_recipes`): the candidates by descent with momentum, the mended ones by
   projections and descent.  They are then ranked by the Poisson log-likelihood of the held-out voxels
   (`ranking.rank_candidates`).  No crystal was fitted to them, so overfitting does not help.  Crystals of few voxels
   are refined with a loose and with a tight support.  Of two ways the one is kept that gives the smaller product of
   free log-likelihood and amplitude spread.

   Frames whose angles were not measured may lie beside even steps.  The winner shows where
   (`frame_search.find_shifts`); the finalists are then refined with these places.

5. *Conclude* (`ranking.conclude`).  The winner is fitted to all voxels in its final support.  The correlations of the
   other finalists with it measure the agreement, and a parametric bootstrap measures how far counting noise
   moves it.  If the crystal is not good or the finalists disagree, and time is left, steps 2 to 5 are repeated with
   other random starts, and all finalists compete.

6. *Finish* (`finish.finish_finalists`).  A crystal that is still not good is refined by further recipes, as long as
   one improves its score and leaves the held-out voxels as well explained; the other finalists then go through the same
   recipes.  Data without counting noise are fitted to the limit of single precision (`finish.fit_without_noise`).

`cdi_stream.phasing.judge` turns the numbers into a verdict.  Decision records 0007 and 0025 tell how the method came
about.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from cdi_stream.metrics import Metrics
from cdi_stream.numerics.workers import one_thread_each
from cdi_stream.phasing.attempts import Attempts, Report
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.finish import fit_without_noise
from cdi_stream.phasing.grid_level import Search
from cdi_stream.phasing.judge import LARGEST_AMPLITUDE_SPREAD, LEAST_AGREEMENT, judge
from cdi_stream.phasing.middle import origin_for
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import amplitude_spread
from cdi_stream.phasing.ranking import Candidates, Solution, metrics_of
from cdi_stream.phasing.tuning import TUNING


def solve(
    data: Measurement,
    seed: int,
    deadline: Deadline,
    settings: AutoSettings | None = None,
    report: Report = lambda line: None,
    known: Batch | None = None,
) -> Solution:
    """Find the crystal of a measurement within a time budget.

    The result is the same for the same arguments and number of threads, unless the time budget limited the search.

    Parameters
    ----------
    data
        The measurement, in Fourier order.
    seed
        Seed of the random starts and of the held-out voxels.
    deadline
        Time budget.  A search that runs out of time returns its best crystal so far.
    settings
        Extent of the search; by default as thorough as the time allows.
    report
        Receives a line of text after each step.
    known
        Crystals on the finest grid that compete with the random starts.

    Returns
    -------
    Solution
        The crystal in Fourier order, its support, and the numbers that judge it.
    """
    settings, origin = settings or AutoSettings(), origin_for(data)
    with one_thread_each():  # transforms that are split among threads wait for one another on a busy machine
        attempts = Attempts(origin.at_origin(data), seed, Search(deadline), settings, report)
        found = _solved(attempts, None if known is None else origin.with_ramp(known))
        solution = replace(
            found,
            crystal=origin.without_ramp(found.crystal),
            finalists=origin.without_ramp(found.finalists),
            frame_shifts=origin.back(found.frame_shifts),
            aliens=origin.back(found.aliens),
        )
        is_plain = solution.kernel is None and solution.frame_shifts is None
        if settings.is_thorough and settings.is_exact and is_plain:
            solution = fit_without_noise(solution.model_of(data), solution, deadline)
    return solution


def _solved(attempts: Attempts, known: Batch | None) -> Solution:
    """Repeat attempts until the crystal is good and its finalists agree, or the time is short; return the solution."""
    settings = attempts.settings
    pool, recipe = attempts.attempt(known)
    solution = attempts.conclude(pool, recipe)
    if solution.is_truncated:
        return solution
    metrics = metrics_of(solution, attempts.model.measured)
    while not _is_settled(attempts, metrics, pool) and attempts.has_time_for_another():
        finalists, its_recipe = attempts.attempt()
        pool = attempts.rank(finalists.append(pool)).best(max(settings.finalists, 2))
        is_new = torch.equal(finalists.crystal[0], pool.crystal[0])
        recipe = its_recipe if is_new else recipe
        before, was_good, solution = solution, _is_good(metrics), attempts.conclude(pool, recipe)
        if solution.is_truncated and (was_good or not is_new):
            return before
        metrics = metrics_of(solution, attempts.model.measured)
    if settings.is_thorough and not _is_good(metrics):
        solution = attempts.conclude(*attempts.finish(pool, recipe))
    return solution


def _is_settled(attempts: Attempts, metrics: Metrics, pool: Candidates) -> bool:
    """Return whether no further attempt is allowed or needed.

    A quick first attempt must give a good crystal that is not strongly strained: the finalists of one attempt may share
    a fault.

    ``metrics`` are those of the best of the pool.  A number that is not known (NaN) counts as trusted.
    """
    if attempts.number == attempts.settings.attempts:
        return True
    if metrics.agreement < LEAST_AGREEMENT:
        return False
    if attempts.number > 1:
        is_even = not amplitude_spread(pool.crystal[0], pool.support[0]) > LARGEST_AMPLITUDE_SPREAD
        return is_even or _is_good(metrics)
    is_plain = not attempts.is_blur_open and not metrics.support_over_box > TUNING.plain_over_box
    return is_plain and _is_good(metrics)


def _is_good(metrics: Metrics) -> bool:
    return judge(metrics).grade == "good"
