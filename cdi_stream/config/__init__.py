"""The configuration: one TOML file for each deployment, with unknown keys refused and units in names.

Each section is a frozen model in a module of its own; `file` puts them together.
"""

from cdi_stream.config.detector import DetectorConfig
from cdi_stream.config.documents import BusConfig, DocumentsConfig
from cdi_stream.config.file import Config, prepare_folder, read_config
from cdi_stream.config.geometry import FixedGeometry, GeometryConfig, InlineBeamline
from cdi_stream.config.images import read_image
from cdi_stream.config.outputs import DashboardConfig, PublishConfig
from cdi_stream.config.reconstruction import MethodConfig, PhaseConfig, PrepareConfig

__all__ = [
    "BusConfig",
    "Config",
    "DashboardConfig",
    "DetectorConfig",
    "DocumentsConfig",
    "FixedGeometry",
    "GeometryConfig",
    "InlineBeamline",
    "MethodConfig",
    "PhaseConfig",
    "PrepareConfig",
    "PublishConfig",
    "prepare_folder",
    "read_config",
    "read_image",
]
