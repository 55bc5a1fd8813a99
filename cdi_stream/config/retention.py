"""Section ``[retention]``: how long results are kept, and the space that refinement leaves free."""

from __future__ import annotations

from pydantic import Field

from cdi_stream.config.section import Section
from cdi_stream.config.values import Bytes, Days


class RetentionConfig(Section):
    """How long the files of each stage are kept, and when refinement stops for want of space.

    Documents in Tiled name the files: what is deleted is missing there.
    """

    least_free_bytes: Bytes = Field(
        default=2 << 30,
        description=(
            "Free space on the disk of publish.directory below which refinement waits, in bytes, so that live results "
            "find room; the operators' page shows an alarm. Refinement goes on by itself when a quarter more is free."
        ),
    )
    preview_days: Days | None = Field(
        default=None,
        description="Days after which the files of previews are deleted; by default never.",
    )
    inference_days: Days | None = Field(
        default=None,
        description="Days after which the files of the network's first answers are deleted; by default never.",
    )
    reconstruction_days: Days | None = Field(
        default=None,
        description="Days after which the files of reconstructions are deleted; by default never.",
    )
    refinement_days: Days | None = Field(
        default=None,
        description="Days after which the files of refinements are deleted; by default never.",
    )

    @property
    def days(self) -> dict[str, float]:
        """Days for which the files of each stage are kept, without the stages that are kept for ever."""
        kept = {
            "preview": self.preview_days,
            "inference": self.inference_days,
            "reconstruction": self.reconstruction_days,
            "refinement": self.refinement_days,
        }
        return {stage: days for stage, days in kept.items() if days is not None}
