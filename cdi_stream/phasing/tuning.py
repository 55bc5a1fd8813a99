"""Numbers that steer the automatic method, in one place.

`SearchTuning` has one field for each number; the modules of `cdi_stream.phasing` read them from `TUNING`.  The
schedules of projections are recipes and stand in `cdi_stream.phasing.schedules`; how long a search may be is set by
`cdi_stream.phasing.auto_settings.AutoSettings` and `cdi_stream.phasing.explore.Exploration`; the limits of the verdict
stand in `cdi_stream.phasing.judge`.

Most values were found by trial on simulated crystals with a phase range of pi to 5 pi; ``make bench-phasing`` measures
the outcome.  Where a single measurement decided a value, the field names it or its decision record
(``deploy/decisions``).  A change of any value changes results: compare
``python -m tests.bench.phasing.reference`` and ``make bench-phasing`` before and after.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTuning:
    """Values that steer the automatic method; a share is between 0 and 1 and has no unit."""

    # Size of the crystal, from the autocorrelation of the counts.

    autocorrelation_threshold: float = 0.02
    """Share of its maximum above which the autocorrelation counts as crystal."""

    noise_multiple: float = 4.0
    """Smallest threshold of the autocorrelation, in multiples of its counting noise."""

    tail_correction: float = 1.12
    """Factor on the length where `autocorrelation_threshold` cuts the autocorrelation.

    The threshold cuts the tails of a compact crystal's autocorrelation by about a ninth of its length.
    """

    least_relative_scale: float = 1e-7
    """Share of the largest expected scale below which a voxel holds no information about the intensity."""

    slant_of_strain: float = 0.75
    """Smallest slant of the autocorrelation that strain alone causes; a smaller slant shrinks the size estimate."""

    # Sizes that a support may have.

    largest_support_share: float = 0.3
    """Largest share of the array that a support may fill; beyond, the intensities do not determine the phases."""

    support_growth: float = 1.5
    """Largest support on a finer grid, relative to the median support of the best candidates on the coarser grid.

    A factor of 1.2 cut strongly strained crystals.
    """

    growth_of_known: float = 1.2
    """Largest support, relative to the support of a crystal that was known before the search.

    Without this limit, crystals that are hardly oversampled along one axis were found at three times their volume, with
    a better likelihood (decision record 0010).
    """

    size_tolerance: float = 1.01
    """Factor on the largest support below which a candidate is still accepted: an update may overshoot slightly."""

    # Support of a crystal that is carried to another grid.

    first_threshold: float = 0.1
    """Share of the largest amplitude above which a voxel is in the first guess of that support."""

    carried_threshold: float = 0.22
    """Share of the rms amplitude inside the support that the following updates use."""

    carried_updates: int = 4
    """Number of these updates; each update uses the support of the previous update as its reference."""

    # Grids from coarse to fine.

    kept_counts: float = 0.988
    """Share of the counts along each axis that the coarsest grid keeps.

    Strained crystals have a wide diffraction and need all of it.
    """

    grid_step: float = 1.45
    """Largest ratio of the lengths of an axis from one grid to the next finer grid."""

    last_grid_step: float = 1.2
    """Ratio below which the next finer grid is left out and the finest grid follows at once."""

    least_grid_vox: int = 16
    """Shortest axis of the coarsest grid [voxels]."""

    uncropped_share: float = 0.85
    """Share of an axis above which the coarsest grid keeps the whole axis: cropping would save little."""

    # Random starts on the coarsest grid.

    most_voxels_a_round: int = 1_000_000
    """Largest number of voxels in all starts of a round; a large coarsest grid gets fewer starts at once."""

    most_voxels_together: int = 1_000_000
    """Largest grid on which several candidates are refined together; on a larger grid each is refined alone, in turn,
    which takes the same time and less memory."""

    start_thresholds: tuple[float, float] = (0.05, 0.15)
    """Lowest and highest threshold of the autocorrelation (largest value 1) that gives a start its support.

    The thresholds of Masto et al. (2025), see `cdi_stream.phasing.starts`.
    """

    agreeing_correlation: float = 0.93
    """Correlation from which two coarse crystals agree; both are then within an NMSE of about 0.07 of the truth."""

    plain_over_box: float = 1.4
    """Volume of a support over the box of the autocorrelation above which a quick attempt is not enough.

    Such crystals are strongly strained.
    """

    small_crystal_vox: float = 13.0
    """Mean extent [voxels] below which most voxels lie near the surface, so that a loose support constrains too little.

    Smaller crystals are refined with a tight support as well (decision record 0010).
    """

    # Background, before a search.

    background_block_vox: int = 8
    """Length of the blocks whose mean counts show the background [voxels]; an axis has at least eight blocks."""

    background_rounds: int = 12
    """Largest number of fits of the plane through the blocks."""

    background_shares: tuple[float, float] = (0.015, 0.5)
    """Smallest and largest share of the counts that a background may have.

    Below, the tails of the diffraction look alike; above, the measurement shows no crystal.
    """

    background_contrast: float = 0.2
    """Contrast of the faint blocks below which they are background.

    Of the zoo's trial samples, those with background had 0.0 to 0.1 (one of 1e5 photons 0.3), others 0.4 to 1.4.
    """

    # Partial coherence, on the coarsest grid.

    first_blur_vox: float = 0.5
    """Width of the coherence kernel along each axis at which its refinement begins [voxels]."""

    least_blur_vox: float = 0.25
    """Width of the coherence kernel below which the light counts as coherent [voxels]."""

    candidates_for_coherence: int = 4
    """Candidates of the coarsest grid with which a kernel is refined."""

    candidates_for_quick_coherence: int = 2
    """Candidates with which a kernel is refined in a large volume."""

    plain_blur_vox: float = 0.4
    """Width of a kernel above which a quick search takes the light as partly coherent.

    Crystals of a quick search are not quite right yet, which looks like a blur of up to 0.38 voxels.
    """

    hopeless_blur_vox: float = 0.35
    """Width of a kernel below which a quick search ends its fit, and a large volume takes the light as coherent.

    Kernels of blurred data grow from round to round, from 0.40 voxels on in 40 trial samples; those of coherent data
    shrink.
    """

    suspected_blur_score: float = 1.03
    """Relative score with a wide kernel below which a quick search is followed by a thorough one."""

    plain_blur_score: float = 0.95
    """Score with such a kernel, relative to that without: 0.82 to 0.90 for simulated blur of 0.5 voxels and more."""

    cost_of_kernel: float = 3.0
    """Time of a step of descent with a kernel, relative to a cycle without it."""

    coherence_rounds: int = 4
    """Rounds of cycles and refinement of the kernel, for each of these candidates."""

    quick_coherence_rounds: int = 2
    """The same in a large volume, whose kernel is improved on the finest grid: two rounds find it to 5 %."""

    descent_per_kernel: int = 10
    """Steps of descent on the crystal between two refinements of the kernel."""

    coherence_error: float = 0.15
    """Relative error of the width of a kernel besides counting noise: a crystal that is not quite right hides blur.

    From simulated crystals of known coherence; ``make bench-phasing`` shows the ratios.
    """

    finest_kernel_rounds: int = 5
    """Rounds of refinement of the kernel with the winner on the finest grid."""

    # Places of frames whose angles were not measured, on the finest grid.

    angle_error_steps: float = 0.15
    """Expected rms distance of such frames from even steps."""

    first_uneven_llk: float = 0.995
    """Free log-likelihood after the first estimate of the places, over that of even steps, above which no more follow.
    """

    uneven_llk: float = 0.98
    """Largest relative free log-likelihood at which the places count.

    Trial samples with even steps: 0.99 and more.  With a scatter of 0.15 steps 0.95 to 1.0, of 0.35 steps 0.83 to 0.99.
    """

    shift_rounds: int = 3
    """Rounds of descent and refinement of the places."""

    descent_per_shifts: int = 15
    """Steps of descent on the crystal between two refinements of the places."""

    largest_shift_step: float = 0.2
    """Largest change of a frame's place in one refinement [steps]."""

    # Middle of the counts, before a search.

    counts_about_middle: float = 0.95
    """Share of the counts whose middle becomes the origin; an alien peak seldom holds the rest."""

    smaller_grid: float = 0.85
    """Voxels of the coarsest grid about the middle, relative to those about the Bragg peak, below which the middle
    becomes the origin."""

    # Alien peaks that the crystals leave unexplained, on the coarsest grid.

    crystals_that_leave_aliens: int = 3
    """Number of best crystals, each of which must leave an alien peak."""

    alien_blur_vox: float = 1.5
    """Blur of the counts and of the model before they are compared [voxels]."""

    alien_over_fault: float = 3.0
    """Least height of an alien peak over the deepest fault of these crystals, both over counting noise.

    Of 152 trial samples, 14 aliens have 3.4 to 20; all samples without aliens have 2.5 at most.
    """

    least_alien_excess: float = 40.0
    """Least height of an alien peak [standard deviations of the blurred counts]."""

    faintest_alien_share: float = 0.1
    """Least height of a voxel of an alien peak, as a share of the highest."""

    alien_rim_vox: int = 4
    """Voxels by which the places of alien peaks grow: for the tails of the peaks, and for the part of a peak that lies
    outside of the coarsest grid."""

    largest_alien_share: float = 0.03
    """Largest share of the valid voxels that alien peaks may take; beyond, the crystal is the fault."""

    largest_alien_counts: float = 0.1
    """Largest share of the counts that alien peaks may have."""

    most_alien_looks: int = 3
    """Number of times that a search is begun again without the alien peaks that it found."""

    # Candidates from grid to grid.

    candidates_per_finalist: int = 3
    """Candidates that leave the coarsest grid, per finalist."""

    candidates_kept_of_three: int = 2
    """Candidates, of every three, that are kept from one grid to the next, down to the number of finalists."""

    planned_time_share: float = 0.9
    """Share of the time left that the number of finalists is planned with."""

    cycles_after_finalists: int = 80
    """Cycles of the finest grid that are reserved for the steps after the finalists."""

    # Voxels that are held out of the refinement on the finest grid.

    held_out_share: float = 0.05
    """Share of the valid voxels that is held out."""

    held_out_radius_vox: int = 3
    """Radius of the balls that are held out [voxels]."""

    held_out_centre: float = 0.05
    """Distance from the Bragg peak, in lengths of each axis, within which no voxel is held out."""

    # Finish: further refinements of the winner.

    better_score: float = 0.99
    """Score, relative to the winner's, below which a further refinement replaces the winner."""

    largest_llk_rise: float = 1.1
    """Largest free log-likelihood of a further refinement, relative to its value before the first one."""

    most_refinements: int = 6
    """Largest number of refinements of the winner, one after the other."""

    repeat_margin: float = 1.5
    """Time left after another exploration, relative to that of the steps after the last one, at which to search again.
    """

    optional_work_share: float = 0.8
    """Share of the time budget after which no step begins that can be left out."""

    # Data without counting noise.

    noise_free_misfit: float = 0.03
    """chi2, relative to the floor of counting noise, below which the winner needs no further refinement.

    The data then have no counting noise, and `cdi_stream.phasing.gradient.polish_exact` needs no better start.
    """

    noise_free_margin: float = 0.1
    """chi2, relative to the floor of counting noise, below which data are taken as free of counting noise."""

    overfitting_share: float = 0.5
    """Free numbers of a support (two a voxel), per valid voxel, above which a fit may explain the noise too."""

    rim_vox: int = 2
    """Voxels that a support grows by before the exact polish: a tight support cuts the faint rim of the crystal."""

    noise_test_steps: int = 30
    """Steps of descent before the data are judged to be free of counting noise or not."""

    exact_descent_steps: int = 100
    """Steps of descent in each round of the exact polish."""

    exact_misfit: float = 2e-8
    """chi2 at which data without noise are explained: the limit of single precision."""

    exact_improvement: float = 0.1
    """Largest chi2, relative to chi2 before, at which the result of the exact polish is taken."""

    exact_rounds: int = 12
    """Largest number of rounds of the exact polish."""

    exact_time_share: float = 0.95
    """Share of the time budget at which the exact polish ends; the shift of the crystal and its support come after."""

    exact_check_cycles: int = 20
    """Cycles of the exact polish between two measurements of chi2."""

    # Random starts of a large volume.

    first_check_share: float = 0.4
    """Share of the time budget at which the first random starts of a large volume end."""

    first_check_length: float = 0.5
    """Length of the schedule of these starts; most crystals are found as well as with the full schedule."""

    largest_growth_mended: float = 1.3
    """Largest growth of a support by which parts that were cut off come back; 1.2 at most at 5 pi.

    In a volume with gaps, and in an uneven crystal, the support grows by 1.4 and more, into nothing.
    """

    more_checks_share: float = 0.7
    """Share of the time budget at which the later random starts of a large volume end."""

    most_extra_rounds: int = 3
    """Largest number of extra rounds of random starts while the starts disagree.

    All rounds use the first variants of the schedule; the other variants filled the pool with crystals that explain the
    coarse grid and are wrong (decision record 0011).
    """


TUNING = SearchTuning()
"""Values that all modules read."""
